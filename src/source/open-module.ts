/**
 * Opens and checks a source module in the manager, which never runs it.
 *
 * Called at an attach and when a later manager finds a record. A worker loads the module to report what it makes
 * (worker/inspect-source.ts).
 */
import { fstatSync, openSync, realpathSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { ErofsNbdError } from "../errors.ts";
import { close } from "../sys/libc/files.ts";

/** An open module: the caller closes `fd` (close-on-exec). */
export interface OpenModule {
  readonly fd: number;
  /** Absolute, without symbolic links. */
  readonly path: string;
}

const OTHERS_MAY_WRITE = 0o002;
const STICKY = 0o1000;

const REASONS: Record<string, string> = {
  ENOENT: "there is no such file",
  ENOTDIR: "a part of the path is not a directory",
  EACCES: "permission denied",
  ELOOP: "too many symbolic links",
};

/** @throws ErofsNbdError ERR_SOURCE: missing, no file, or writable by every user */
export function openModule(path: string): OpenModule {
  let fd: number;
  let absolute: string;
  try {
    absolute = realpathSync(path);
    // O_RDONLY | O_NONBLOCK (a FIFO must not block) | O_CLOEXEC, which Node always adds.
    fd = openSync(absolute, 0o4000);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "an unknown error";
    throw new ErofsNbdError("ERR_SOURCE", `cannot open source module ${path}: ${REASONS[code] ?? code}`, {
      hint: "check the path; a relative path starts at the current directory",
      cause: error,
    });
  }
  try {
    if (!fstatSync(fd).isFile())
      throw new ErofsNbdError("ERR_SOURCE", `cannot use source module ${path}: it is not a regular file`);
    refuseOpenToAll(absolute);
    return { fd, path: absolute };
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** Workers load the module as long as the device exists: a user who can change it can run code in them. */
function refuseOpenToAll(path: string): void {
  const culprit = [path, ...parentsOf(path)].find((one) => {
    const { mode } = statSync(one);
    return (mode & OTHERS_MAY_WRITE) !== 0 && (one === path || (mode & STICKY) === 0);
  });
  if (culprit === undefined) return;
  throw new ErofsNbdError("ERR_SOURCE", `cannot use source module ${path}: every user may write ${culprit}`, {
    hint: `remove that permission: chmod o-w ${culprit}`,
  });
}

function parentsOf(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [parent, ...parentsOf(parent)];
}
