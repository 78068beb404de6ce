/**
 * Serializes mounts at the same directory: two concurrent `mount -a` would both find nothing mounted, and mount twice.
 *
 * Used by mount-image.ts. The lock is flock(2) on a file in the run directory, where other users cannot hold it. The
 * kernel releases it when the process ends. Mount points share a fixed number of files, so that none need to be
 * removed.
 */
import { closeSync, constants, openSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunDir } from "../../control/run-dir.ts";
import { prepareRunDir } from "../../control/run-dir-trust.ts";
import { ErofsNbdError } from "../../errors.ts";
import { ERRNO, SystemError } from "../../sys/errno.ts";
import { flock, LOCK_EX, LOCK_NB } from "../../sys/libc/files.ts";

const POLL_MS = 50;
const FILES = 64n;
/** Longer than an attach and a mount take. */
const PATIENCE_MS = 120_000;

/**
 * Waits for the lock of a mount point, which is identified by its inode before the mount. Returns the unlock function.
 * @param onWait called once if another process holds the lock
 * @throws ErofsNbdError ERR_RUN_DIR; ERR_MOUNT if the lock was held for too long; SystemError
 */
export async function lockMountPoint(
  runDir: RunDir,
  directory: string,
  onWait: () => void,
): Promise<() => void> {
  const { dev, ino } = statSync(directory, { bigint: true });
  prepareRunDir(runDir);
  const path = join(runDir.mounts, `${(dev * 31n + ino) % FILES}.lock`);
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  const end = performance.now() + PATIENCE_MS;
  try {
    for (let isFirst = true; ; isFirst = false) {
      const result = flock(fd, LOCK_EX | LOCK_NB);
      if (result === 0) return () => closeSync(fd);
      if (result !== -ERRNO.EWOULDBLOCK) throw new SystemError("lock", -result, path);
      if (performance.now() > end) {
        throw new ErofsNbdError(
          "ERR_MOUNT",
          `cannot mount at ${directory}: timed out waiting for another mount`,
          {
            hint: `fuser -v ${path} shows the process that holds the lock`,
          },
        );
      }
      if (isFirst) onWait();
      await sleep(POLL_MS);
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
