/**
 * The error class of src/, with a stable code per condition and the exit code of the command line for each.
 *
 * Programs switch on `code`; users read `message` (lower case, no final period, for example `cannot attach a.erofs: it
 * is empty`) and `hint` (one imperative line). netlink/ has classes of its own with the same shape, because it is
 * usable without src/. A leaf.
 */

/** The exit codes of the command line: a contract, see docs/errors.md. */
export const EXIT = {
  done: 0,
  usage: 1,
  system: 2,
  absent: 3,
  bug: 4,
  chaosFailed: 5,
  interrupted: 8,
  mountFailed: 32,
  someFailed: 64,
} as const;

/** A value of {@link EXIT}. */
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** The stable codes of {@link ErofsNbdError}, listed in docs/errors.md. */
export type ErrorCode =
  | "ERR_BAD_ARGUMENT"
  | "ERR_PERMISSION"
  | "ERR_IMAGE"
  | "ERR_IMAGE_CHANGED"
  | "ERR_NOT_EROFS"
  | "ERR_SOURCE"
  | "ERR_NO_NBD"
  | "ERR_NO_NETLINK"
  | "ERR_NO_SYSTEMD"
  | "ERR_NO_KOFFI"
  | "ERR_DEVICE_BUSY"
  | "ERR_DEVICE_MOUNTED"
  | "ERR_NOT_ATTACHED"
  | "ERR_KERNEL"
  | "ERR_SYSCALL"
  | "ERR_WORKER"
  | "ERR_NOT_READABLE"
  | "ERR_PROTOCOL"
  | "ERR_CONTROL"
  | "ERR_RUN_DIR"
  | "ERR_MOUNT"
  | "ERR_INTERRUPTED"
  | "ERR_INTERNAL";

const EXIT_OF: Record<ErrorCode, ExitCode> = {
  ERR_BAD_ARGUMENT: EXIT.usage,
  ERR_PERMISSION: EXIT.usage,
  ERR_IMAGE: EXIT.usage,
  ERR_IMAGE_CHANGED: EXIT.usage,
  ERR_NOT_EROFS: EXIT.usage,
  ERR_SOURCE: EXIT.usage,
  ERR_RUN_DIR: EXIT.usage,
  ERR_NO_NBD: EXIT.system,
  ERR_NO_NETLINK: EXIT.system,
  ERR_NO_SYSTEMD: EXIT.system,
  ERR_NO_KOFFI: EXIT.system,
  ERR_DEVICE_BUSY: EXIT.system,
  ERR_DEVICE_MOUNTED: EXIT.system,
  ERR_KERNEL: EXIT.system,
  ERR_SYSCALL: EXIT.system,
  ERR_WORKER: EXIT.system,
  ERR_NOT_READABLE: EXIT.system,
  ERR_PROTOCOL: EXIT.system,
  ERR_CONTROL: EXIT.system,
  ERR_NOT_ATTACHED: EXIT.absent,
  ERR_MOUNT: EXIT.mountFailed,
  ERR_INTERRUPTED: EXIT.interrupted,
  ERR_INTERNAL: EXIT.bug,
};

/** A code of this table, of netlink/errors.ts, or of another version's manager. */
export type AnyErrorCode = ErrorCode | (string & Record<never, never>);

/** An error with a stable code, a one-line message and, if there is a remedy, a hint. */
export class ErofsNbdError extends Error {
  override readonly name: string = "ErofsNbdError";
  readonly code: AnyErrorCode;
  readonly hint: string | undefined;

  constructor(
    code: AnyErrorCode,
    message: string,
    options: { hint?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
  }
}

/** Whether an error has one of these codes or errno names, no matter which class or copy of the package made it. */
export function hasCode(error: unknown, ...codes: readonly AnyErrorCode[]): boolean {
  const { code } = (error ?? {}) as { readonly code?: unknown };
  return typeof code === "string" && codes.includes(code);
}

/** Whether an error has any code: those of erofs-nbd, the manager and the system have one, bugs have none. */
export function isCoded(error: unknown): error is Error & { readonly code: string } {
  return error instanceof Error && typeof (error as { readonly code?: unknown }).code === "string";
}

/** Whether a code is one of the table above, whichever class carries it. */
export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === "string" && Object.hasOwn(EXIT_OF, code);
}

/**
 * The error for a wrong value: `invalid --connections 'abc': expected an integer from 1 to 64`.
 *
 * @param name the option, field or operand, as the user or program spells it
 * @param got the value as text
 */
export function invalidValue(name: string, got: string, expected: string, hint?: string): ErofsNbdError {
  return invalidArgument(name, `'${got}'`, expected, hint);
}

/** The same for a value that is no text: `shown` is printed without quotes. */
export function invalidArgument(name: string, shown: string, expected: string, hint?: string): ErofsNbdError {
  return new ErofsNbdError("ERR_BAD_ARGUMENT", `invalid ${name} ${shown}: expected ${expected}`, { hint });
}

/** The error for a device that is not attached: `cannot show nbd3: it is not attached`. `act` follows "cannot ". */
export function notAttached(act: string): ErofsNbdError {
  return new ErofsNbdError("ERR_NOT_ATTACHED", `cannot ${act}: it is not attached`);
}

/** Reasons for `rootRequired`. */
export const ATTACHING = "the kernel requires CAP_SYS_ADMIN to attach";
export const MANAGING = "the manager is root's, and so is its run directory";

/** The error for a missing right. `why` completes the hint: what it is that root alone may do. */
export function rootRequired(why: string): ErofsNbdError {
  return new ErofsNbdError("ERR_PERMISSION", "must be run as root", { hint: `run it with sudo; ${why}` });
}

const EXIT_CODES: readonly unknown[] = Object.values(EXIT);

/**
 * The exit code for any error: the one that it carries, else by its code, else `system` for errors with an errno. Any
 * other error is a bug in erofs-nbd.
 */
export function exitCodeOf(error: unknown): ExitCode {
  // By shape: there may be two copies of the package.
  const carried = (error as { exitCode?: unknown } | null | undefined)?.exitCode;
  if (EXIT_CODES.includes(carried)) return carried as ExitCode;
  if (error instanceof ErofsNbdError) return EXIT_OF[error.code as ErrorCode] ?? EXIT.system;
  if (error instanceof Error && "errno" in error) return EXIT.system;
  return EXIT.bug;
}
