/**
 * One mount at a time at one place: two «mount -a» at once would both find nothing there, and mount twice.
 *
 * Used by mount-image.ts. The lock is flock(2), which ends with the process that holds it, however that dies, on a file in the
 * run directory, where nobody else can lock us out. Places share a few files: they need no clearing away.
 */
import { closeSync, constants, openSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { prepareRunDir, type RunDir } from "../../control/run-dir.ts";
import { ErofsNbdError } from "../../errors.ts";
import { ERRNO, SystemError } from "../../sys/errno.ts";
import { flock, LOCK_EX, LOCK_NB } from "../../sys/libc.ts";

const POLL_MS = 50;
const FILES = 64n;
/** Longer than an attach and a mount may take. */
const PATIENCE_MS = 120_000;

/**
 * Waits for the lock of a mount point as it is before the mount, however it is spelt; the returned function gives it up.
 * @param onWait called once, if it is held
 * @throws ErofsNbdError ERR_RUN_DIR, ERR_MOUNT: somebody has held it for too long; SystemError
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
          `cannot mount at ${directory}: another mount has not come to its end`,
          {
            hint: `look who has ${path} open (fuser)`,
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
