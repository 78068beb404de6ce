/**
 * A service's manager in the place of one that a command has started: the other is asked to step down, and waited for.
 *
 * Called by daemon.ts with `takeOver`. Devices and workers stay as they are; the manager that comes finds them as it
 * would find those of a dead one. Two managers never run: the lock changes hands only when the other process lets go
 * of it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ControlClient, ControlError } from "../../control/client.ts";
import type { RunDir } from "../../control/run-dir.ts";
import { lockRunDir, type RunDirLock } from "../../control/run-lock.ts";
import type { Log } from "../../log/log.ts";
import { StartWatch } from "../../sys/start-watch.ts";

const POLL_MS = 20;

/**
 * The lock, or who has it still: a manager that hangs. One that gets on is waited for: it answers when it has
 * started, and when it has said that it steps down it ends. `patienceMs` is for tests.
 * @throws ControlError when the other refuses: it is part of a program, or a device is in the middle of a change
 */
export async function lockInsteadOfOther(
  runDir: RunDir,
  log: Log,
  patienceMs: number = Number.POSITIVE_INFINITY,
): Promise<RunDirLock | { readonly heldBy: number }> {
  const end = performance.now() + patienceMs;
  let asked: number | undefined;
  let watch: StartWatch | undefined;
  for (;;) {
    const lock = lockRunDir(runDir);
    if (!("heldBy" in lock) || performance.now() > end) return lock;
    if (watch?.pid !== lock.heldBy) watch = new StartWatch(lock.heldBy, "manager");
    if (watch.look() !== undefined) return lock;
    if (lock.heldBy !== asked && (await ask(runDir))) {
      asked = lock.heldBy;
      log.info(`Manager ${lock.heldBy} makes way for this one`);
    }
    await sleep(POLL_MS);
  }
}

/** Returns whether somebody was asked; one that has just started does not listen yet. */
async function ask(runDir: RunDir): Promise<boolean> {
  const client = await ControlClient.connect(runDir);
  try {
    await client?.request("stepDown", {});
    return client !== undefined;
  } catch (error) {
    if (error instanceof ControlError) throw error;
    // It went away meanwhile, which is what it was to do.
    return true;
  } finally {
    client?.close();
  }
}
