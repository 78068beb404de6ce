/**
 * Any error as what travels over the control socket, and as the command line prints it: one line, hint, exit code.
 */
import { ErofsNbdError, type ExitCode, exitCodeOf } from "../errors.ts";
import type { ControlFault } from "./protocol.ts";

/** Errors of ours and of netlink/ share a shape; anything else is a bug, and says so with its message. */
export function faultOf(error: unknown): ControlFault {
  const message = error instanceof Error ? error.message : String(error);
  const shaped = error as { code?: unknown; hint?: unknown };
  return {
    code: typeof shaped.code === "string" ? shaped.code : "ERR_INTERNAL",
    message,
    hint:
      error instanceof ErofsNbdError ? error.hint : typeof shaped.hint === "string" ? shaped.hint : undefined,
    exitCode: exitCodeOf(error),
  };
}

/** A fault that the manager reported: an error as any of ours, with the exit code that the manager decided on. */
export class ControlError extends ErofsNbdError {
  override readonly name: string = "ControlError";
  readonly exitCode: ExitCode;

  constructor(fault: ControlFault) {
    super(fault.code, fault.message, { hint: fault.hint });
    this.exitCode = fault.exitCode;
  }
}
