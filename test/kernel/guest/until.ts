/** Waits in a guest: with the deadline of a step there, which is longer than that of a unit test. */
import { until as untilWithin } from "../../helpers/until.ts";
import { LIMITS } from "../../limits.mjs";

/** Waits until a condition holds. */
export function until(
  what: string,
  condition: () => boolean,
  deadlineMs: number = LIMITS.stepMs,
): Promise<void> {
  return untilWithin(what, condition, deadlineMs);
}

/** Waits until a condition holds that takes a question to the manager or to a program. */
export function untilAsync(
  what: string,
  condition: () => Promise<boolean>,
  deadlineMs: number = LIMITS.stepMs,
): Promise<void> {
  return untilWithin(what, condition, deadlineMs, 50);
}
