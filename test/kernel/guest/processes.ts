/** The product's processes: finds them, kills them, and waits until they are gone. */
import { readdirSync, readFileSync } from "node:fs";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { until } from "./until.ts";

export const readsInFlight = (index: number): number =>
  Number(readFileSync(`/sys/block/nbd${index}/inflight`, "utf8").trim().split(/\s+/)[0]);

/** Whether a process is there; a zombie is not. */
export function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** Pid of the worker behind link 0. */
export function workerOf(device: DeviceStatus): number {
  const pid = device.links[0]?.workerPid;
  if (pid === undefined) throw new Error(`No worker in ${JSON.stringify(device)}`);
  return pid;
}

/** How long the number of reads in flight must not change until the requests count as unanswered. */
const STILL_MS = 150;

/**
 * Kills processes while reads are surely on the wire of the device: the workers are stopped first, and the reads that
 * come in meanwhile fill the queue until every reader waits. That may be fewer reads than the readers' depth, because
 * the block layer merges neighbours. Returns how many were in flight at the kill.
 */
export async function killUnderLoad(
  device: DeviceStatus,
  victims: readonly number[] = [workerOf(device)],
): Promise<number> {
  for (const pid of victims) process.kill(pid, "SIGSTOP");
  const inFlight = await standstill(device.index ?? -1);
  for (const pid of victims) process.kill(pid, "SIGKILL");
  return inFlight;
}

/** Waits until reads are in flight and nothing moves, and returns how many. */
export async function standstill(index: number): Promise<number> {
  let inFlight = 0;
  let since = Date.now();
  await until("a standstill with reads in flight", () => {
    const now = readsInFlight(index);
    if (now !== inFlight) since = Date.now();
    inFlight = now;
    return inFlight > 0 && Date.now() - since >= STILL_MS;
  });
  return inFlight;
}

/**
 * Kills processes as if all died at one instant: none ends by itself because another is gone, as a spare does without
 * its manager, and none begins to mend what is being broken. Returns when they are gone.
 */
export async function killTogether(...pids: number[]): Promise<void> {
  for (const pid of pids) process.kill(pid, "SIGSTOP");
  for (const pid of pids) process.kill(pid, "SIGKILL");
  await allGone(pids);
}

/** Waits until no manager, worker or client of ours runs any more: an automatic manager leaves with its last device. */
export async function allGone(pids: readonly number[]): Promise<void> {
  await until(`the end of ${pids.join(", ")}`, () => pids.every((pid) => !isAlive(pid)));
}

/** Pids of a manager's workers that it started itself: its children that are ready and not about to end. */
export function workersOf(managerPid: number): number[] {
  return workers((parent) => parent === managerPid);
}

/** The same once the second is ready, too: it is started after the first attach has been answered. */
export async function bothWorkersOf(managerPid: number): Promise<number[]> {
  await until("both workers", () => workersOf(managerPid).length >= 2);
  return workersOf(managerPid);
}

/** Pids of all workers that are ready, also those that have outlived the manager that started them. */
export const allWorkers = (): number[] => workers(() => true);

function workers(fits: (parent: number) => boolean): number[] {
  return pidsWith((pid) => {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // A worker takes this name when it is ready.
    return stat.includes("(erofs-nbd worke") && state !== "Z" && fits(Number(parent));
  });
}

/** Managers that run, or are just being started. */
export function managerPids(): number[] {
  return pidsWith((pid) => {
    // Not the shell that would start the next one.
    const words = readFileSync(`/proc/${pid}/cmdline`, "utf8");
    return words.includes("cli/main.cjs\0manager\0") && !words.startsWith("/bin/sh");
  });
}

/** Shells that wait for the end of a manager. */
export function guardiansOf(managerPid: number): number[] {
  return pidsWith((pid) => {
    const words = readFileSync(`/proc/${pid}/cmdline`, "utf8");
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return words.includes("erofs-nbd guardian") && stat.includes(`) S ${managerPid} `);
  });
}

/** The processes that fit; those that end while they are looked at do not. */
function pidsWith(fits: (pid: number) => boolean): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return fits(pid);
      } catch {
        return false;
      }
    });
}
