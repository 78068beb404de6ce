/** Waiting for an event with a deadline, and counting open sockets; for tests of everything that holds descriptors. */
import { readdirSync, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { LIMITS } from "../../limits.mjs";

/** Resolves when `holds` does; rejects, naming `what`, when it does not within the deadline. */
export async function until(
  what: string,
  holds: () => boolean,
  deadlineMs: number = LIMITS.unitStepMs,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`did not happen in ${deadlineMs} ms: ${what}`);
    await sleep(2);
  }
}

/** Runs everything that is due, for this number of event loop turns. */
export async function turns(count = 5): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Sockets that this process has open, by descriptor, for example socket:[12345]. */
export function openSockets(): Map<number, string> {
  const found = new Map<number, string>();
  for (const name of readdirSync("/proc/self/fd")) {
    try {
      const target = readlinkSync(`/proc/self/fd/${name}`);
      if (target.startsWith("socket:")) found.set(Number(name), target);
    } catch {
      // The descriptor of the listing itself.
    }
  }
  return found;
}

/** How many descriptors this process has for the socket behind one of them. */
export function holdersOf(fd: number): number {
  const sockets = openSockets();
  return [...sockets.values()].filter((target) => target === sockets.get(fd)).length;
}
