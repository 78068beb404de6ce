/**
 * Errno names and the error that a failed system call becomes.
 *
 * Used by everything that calls the kernel directly. Hot paths do not throw: they compare a negative result with
 * the numbers below.
 */
import { constants } from "node:os";
import { getSystemErrorName } from "node:util";

/** Errno numbers by name, of the running platform. */
export const ERRNO: typeof constants.errno = constants.errno;

/** "EBUSY" for 16; "errno 999" for an unknown number. */
export function errnoName(errno: number): string {
  const name = getSystemErrorName(-errno);
  return name.startsWith("Unknown") ? `errno ${errno}` : name;
}

/** A system call that failed: which, on what, and with which errno. */
export class SystemError extends Error {
  override readonly name = "SystemError";
  readonly code = "ERR_SYSCALL";
  readonly syscall: string;
  readonly errno: number;
  readonly errnoName: string;

  constructor(syscall: string, errno: number, subject?: string) {
    const name = errnoName(errno);
    super(`cannot ${syscall}${subject === undefined ? "" : ` ${subject}`}: ${name} (${errno})`);
    this.syscall = syscall;
    this.errno = errno;
    this.errnoName = name;
  }
}

/** Whether an error is one of a system call with one of these errnos, whether this module or Node made it. */
export function hasErrno(error: unknown, ...errnos: readonly number[]): boolean {
  const errno = error instanceof Error && "errno" in error ? Math.abs(Number(error.errno)) : 0;
  return errnos.includes(errno);
}
