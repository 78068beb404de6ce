/**
 * Replaces a running manager: asks it to step down and waits until it has released the run directory's lock.
 *
 * Called by daemon.ts with `takeOver`, when a service starts while a command's manager runs. Devices and workers stay;
 * the new manager adopts them as it would after a crash. Two managers never run at a time, because each holds the lock.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ControlClient, ControlError } from "../../control/client.ts";
import type { RunDir } from "../../control/run-dir.ts";
import { lockRunDir, type RunDirLock } from "../../control/run-lock.ts";
import type { Log } from "../../log/log.ts";
import { StartWatch } from "../../sys/start-watch.ts";

const POLL_MS = 20;

/**
 * Returns the lock, or the pid of a holder that hangs. A holder that makes progress is waited for: it may still be
 * starting, or ending. `patienceMs` is for tests.
 * @throws ControlError when the holder refuses: it is part of a program, or a device is in the middle of a change
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
      log.info(`Manager ${lock.heldBy} steps down for this one`);
    }
    await sleep(POLL_MS);
  }
}

/** Returns whether the holder was asked: one that has just started does not listen yet. */
async function ask(runDir: RunDir): Promise<boolean> {
  const client = await ControlClient.connect(runDir);
  try {
    await client?.request("stepDown", {});
    return client !== undefined;
  } catch (error) {
    if (error instanceof ControlError) throw error;
    // It has ended in the meantime, as it was to do.
    return true;
  } finally {
    client?.close();
  }
}
