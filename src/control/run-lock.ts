/**
 * The lock of a run directory, which allows one manager: flock(2) on a file that is never removed. The kernel releases
 * it when the process ends, so that a dead manager's files never block the next one.
 *
 * Used by the daemon only. Separate from run-dir.ts, because commands that only talk to a manager should not load the
 * bindings of libc for flock(2).
 */
import { closeSync, constants, ftruncateSync, openSync, writeSync } from "node:fs";
import { ErofsNbdError } from "../errors.ts";
import { ERRNO, errnoName } from "../sys/errno.ts";
import { flock, LOCK_EX, LOCK_NB } from "../sys/libc/files.ts";
import { asRunDirError, holderPid, type RunDir } from "./run-dir.ts";

/** A held lock, released by `release` or the end of the process. */
export interface RunDirLock {
  release(): void;
}

/** Locks the run directory, or returns the pid of the manager that holds it. @throws ErofsNbdError */
export function lockRunDir(runDir: RunDir): RunDirLock | { readonly heldBy: number } {
  let fd: number;
  try {
    fd = openSync(runDir.lockFile, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  } catch (error) {
    throw asRunDirError(runDir, error);
  }
  const result = flock(fd, LOCK_EX | LOCK_NB);
  if (result === 0) {
    try {
      // Overwritten before it is truncated: on a full file system the old blocks can still be written.
      const text = `${process.pid}\n`;
      writeSync(fd, text, 0);
      ftruncateSync(fd, text.length);
    } catch (error) {
      closeSync(fd);
      throw asRunDirError(runDir, error);
    }
    return { release: () => closeSync(fd) };
  }
  closeSync(fd);
  if (result !== -ERRNO.EWOULDBLOCK) {
    throw new ErofsNbdError("ERR_RUN_DIR", `cannot lock ${runDir.lockFile}: ${errnoName(-result)}`);
  }
  return { heldBy: holderPid(runDir) };
}
