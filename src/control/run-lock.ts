/**
 * The lock of a run directory, which makes a manager the only one in it: flock(2) on a file that is never removed. It ends
 * with the process that holds it, however that dies, so a dead manager's socket never locks anybody out.
 *
 * Used by the daemon alone. Apart from run-dir.ts because it needs flock(2), and commands that only talk to a manager shall not
 * load libc's bindings for it.
 */
import { closeSync, constants, ftruncateSync, openSync, writeSync } from "node:fs";
import { ErofsNbdError } from "../errors.ts";
import { ERRNO, errnoName } from "../sys/errno.ts";
import { flock, LOCK_EX, LOCK_NB } from "../sys/libc.ts";
import { asRunDirError, holderPid, type RunDir } from "./run-dir.ts";

/** A held lock; `release` gives it up, and so does the end of the process. */
export interface RunDirLock {
  release(): void;
}

/** Becomes the only manager of the run directory, or says who is: undefined and its pid. @throws ErofsNbdError */
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
      // Written over before it is cut to length: on a full file system there is room for what was there.
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
