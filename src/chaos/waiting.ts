/**
 * Waiting with a limit: for a promise, a pause, or a condition, until a deadline or an interruption.
 *
 * Used by every part of chaos/ that waits. A wait that ends early cancels nothing: a late result is ignored.
 */
import { ErofsNbdError } from "../errors.ts";
import { withDeadline } from "../sys/deadline.ts";

/** The deadline passed. The message names the state that was not reached. */
export class OverdueError extends ErofsNbdError {
  /** What was waited for. */
  readonly what: string;

  constructor(what: string, deadlineMs: number) {
    super("ERR_NOT_READABLE", `cannot go on: waited ${deadlineMs / 1000} s in vain until ${what}`);
    this.what = what;
  }
}

/** A reason to end the run that has already been reported. */
export class Halted extends Error {
  override readonly name = "Halted";
}

const NEVER = new AbortController().signal;

/**
 * The result of `promise`, unless the deadline or the signal comes first.
 * @throws OverdueError, the signal's reason, or what `promise` throws
 */
export function inTime<T>(
  deadlineMs: number,
  signal: AbortSignal = NEVER,
  promise: Promise<T>,
  what: string,
): Promise<T> {
  return withDeadline(deadlineMs, signal, (bounded) => {
    const ended = new Promise<never>((_, reject) => {
      const onEnd = (): void => reject(signal.aborted ? signal.reason : new OverdueError(what, deadlineMs));
      if (bounded.aborted) onEnd();
      else bounded.addEventListener("abort", onEnd, { once: true });
    });
    return Promise.race([promise, ended]);
  });
}

/** A pause. @throws the signal's reason when it is aborted */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
}

/** Checks `holds` every `everyMs` until it is true. @throws OverdueError, the signal's reason */
export async function until(
  holds: () => boolean,
  what: string,
  deadlineMs: number,
  everyMs: number,
  signal: AbortSignal,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!holds()) {
    if (performance.now() > end) throw new OverdueError(what, deadlineMs);
    await pause(everyMs, signal);
  }
}
