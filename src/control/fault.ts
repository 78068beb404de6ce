/**
 * Errors as data on the control socket: code, message, hint and exit code.
 *
 * Used by the manager to send them and by the client to throw them.
 */
import { ErofsNbdError, type ExitCode, exitCodeOf } from "../errors.ts";
import type { ControlFault } from "./protocol.ts";

/** Errors of src/ and netlink/ share a shape. Any other error is an internal one. */
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

/** An error that the manager has reported, with the exit code that it has chosen. */
export class ControlError extends ErofsNbdError {
  override readonly name: string = "ControlError";
  readonly exitCode: ExitCode;

  constructor(fault: ControlFault) {
    super(fault.code, fault.message, { hint: fault.hint });
    this.exitCode = fault.exitCode;
  }
}
