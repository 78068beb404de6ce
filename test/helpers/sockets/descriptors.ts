/**
 * This process's open descriptors, for tests that nothing was left open. Node's own (event loop, pipes of children)
 * come and go as it likes, so only sockets, files and epoll instances opened on purpose count.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { afterAll, expect } from "vitest";
import { until } from "../until.ts";

const O_CLOEXEC = 0o2000000;

function descriptors(counts: (target: string) => boolean): Map<number, string> {
  const found = new Map<number, string>();
  for (const name of readdirSync("/proc/self/fd")) {
    try {
      const target = readlinkSync(`/proc/self/fd/${name}`);
      if (counts(target)) found.set(Number(name), target);
    } catch {
      // the descriptor of the listing itself
    }
  }
  return found;
}

/** descriptor → what it refers to, such as `socket:[4711]`. */
export function openDescriptors(): Map<number, string> {
  const isNodes = /^(pipe:|\/dev\/|\/proc\/|anon_inode:\[(eventfd|io_uring|signalfd)\])/;
  return descriptors((target) => !isNodes.test(target));
}

/** The sockets among them. */
export function openSockets(): Map<number, string> {
  return descriptors((target) => target.startsWith("socket:"));
}

/** How many descriptors this process has for the socket behind one of them. */
export function holdersOf(fd: number): number {
  const sockets = openSockets();
  return [...sockets.values()].filter((target) => target === sockets.get(fd)).length;
}

/** Waits until no socket is open that was not open at `baseline`: old kernel ends are kept for a second. */
export async function noSocketsSince(baseline: ReadonlyMap<number, string>): Promise<void> {
  const known = new Set(baseline.values());
  const left = (): string[] => [...openSockets().values()].filter((target) => !known.has(target));
  await until("all sockets closed", () => left().length === 0).catch(() => expect(left()).toEqual([]));
}

/** Whether a descriptor would survive an exec. */
export function isCloseOnExec(fd: number): boolean {
  const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
  return (Number.parseInt(flags, 8) & O_CLOEXEC) !== 0;
}

/** Fails a test file that leaves sockets open. */
export function leavesNoSockets(): void {
  const baseline = openSockets();
  afterAll(() => noSocketsSince(baseline));
}
