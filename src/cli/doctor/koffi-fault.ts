/**
 * Recognises the errors of a missing or unusable native part of koffi, through which all system calls are made.
 *
 * npm leaves it out with --omit=optional, and where the package has none for the processor and libc of this machine.
 */
import { ErofsNbdError } from "../../errors.ts";

const NOT_LOADED: readonly unknown[] = ["MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND", "ERR_DLOPEN_FAILED"];

/** The error for that, or undefined for any other. */
export function koffiFault(error: unknown): ErofsNbdError | undefined {
  if (!(error instanceof Error)) return undefined;
  const isMissing = error.message.startsWith("Cannot find the native Koffi module");
  const { code } = error as NodeJS.ErrnoException;
  if (!isMissing && !(NOT_LOADED.includes(code) && /koffi/i.test(error.message))) return undefined;
  const why = isMissing ? "it is not installed" : error.message;
  return new ErofsNbdError(
    "ERR_NO_KOFFI",
    `cannot load the native part of the npm package koffi, which makes the system calls: ${why}`,
    { hint: "install erofs-nbd again without --omit=optional and --no-optional", cause: error },
  );
}
