/**
 * One mount at a time at one place: two «mount -a» at once would both find nothing there, and mount twice.
 *
 * Used by mount-image.ts. The lock is flock(2) on the directory as it is before the mount, so it needs no file, is the same for
 * all spellings of a path, and ends with the process that holds it, however that dies.
 */
import { closeSync, constants, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ERRNO, SystemError } from "../sys/errno.ts";
import { flock, LOCK_EX, LOCK_NB } from "../sys/libc.ts";

const POLL_MS = 50;

/**
 * Waits for the lock; the returned function gives it up. Whoever holds it has a manager's answer to wait for, at most.
 * @param onWait called once, if it is held
 * @throws SystemError
 */
export async function lockMountPoint(directory: string, onWait: () => void): Promise<() => void> {
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    for (let isFirst = true; ; isFirst = false) {
      const result = flock(fd, LOCK_EX | LOCK_NB);
      if (result === 0) return () => closeSync(fd);
      if (result !== -ERRNO.EWOULDBLOCK) throw new SystemError("lock", -result, directory);
      if (isFirst) onWait();
      await sleep(POLL_MS);
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
