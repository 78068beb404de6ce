/**
 * The processes a run may touch: those that `status` names for the target, checked again at the moment of the signal.
 *
 * A pid may have been reused since the `status` request; the start time shows it. Every process that was
 * stopped is remembered until it has died, so that none stays stopped when the run ends, however it ends.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { DeviceStatus } from "../../control/protocol.ts";
import { ErofsNbdError } from "../../errors.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../../sys/process-identity.ts";

const LOOK_AGAIN_MS = 2;

/** @throws ErofsNbdError ERR_NOT_ATTACHED when it has ended since `status` named it */
export function identify(pid: number, role: string): ProcessIdentity {
  const identity = identifyProcess(pid);
  if (identity !== undefined && isAlive(identity)) return identity;
  throw new ErofsNbdError("ERR_NOT_ATTACHED", `cannot signal ${role} ${pid}: it has ended`);
}

/**
 * The worker behind one of the device's live links, and how many of them it serves; `pick` (0 to 1) chooses among
 * several.
 */
export function chooseWorker(
  device: DeviceStatus,
  pick: number,
): { readonly pid: number; readonly links: number } {
  const live = device.links.filter((link) => link.state === "up");
  const pids = [...new Set(live.map((link) => link.workerPid))];
  const pid = pids[Math.min(pids.length - 1, Math.floor(pick * pids.length))];
  if (pid === undefined) {
    throw new ErofsNbdError("ERR_NOT_READABLE", `cannot find a worker of ${device.device}: no link is up`);
  }
  return { pid, links: live.filter((link) => link.workerPid === pid).length };
}

export class Victims {
  readonly #stopped: ProcessIdentity[] = [];

  /**
   * Sends a signal to exactly that process.
   * @throws ErofsNbdError when it is gone, SystemError-like when it is refused
   */
  signal(victim: ProcessIdentity, signal: "SIGKILL" | "SIGSTOP"): void {
    if (!isAlive(victim))
      throw new ErofsNbdError("ERR_NOT_ATTACHED", `cannot signal process ${victim.pid}: it has ended`);
    if (signal === "SIGSTOP") this.#stopped.push(victim);
    process.kill(victim.pid, signal);
  }

  /** Those that this run has stopped and that are there still when the time is over; at once when there are none. */
  async outlived(deadlineMs: number): Promise<number[]> {
    const left = await Promise.all(
      this.#stopped.map(async (one) => ((await gone(one, deadlineMs)) ? [] : [one.pid])),
    );
    return left.flat();
  }

  /** Ends every process that this run has stopped and that is still there; returns their pids. */
  endStopped(): number[] {
    const left = this.#stopped.splice(0).filter(isAlive);
    for (const { pid } of left) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // ESRCH: it has ended already.
      }
    }
    return left.map(({ pid }) => pid);
  }
}

/** Resolves when a killed process has let go of everything; false when it does not in time. */
export async function gone(victim: ProcessIdentity, deadlineMs: number): Promise<boolean> {
  const end = performance.now() + deadlineMs;
  while (isAlive(victim)) {
    if (performance.now() > end) return false;
    await sleep(LOOK_AGAIN_MS);
  }
  return true;
}
