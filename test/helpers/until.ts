/**
 * Waiting for something that has no event of its own: looks again every few milliseconds, with a deadline.
 */
import { setTimeout as delay } from "node:timers/promises";
import { LIMITS } from "../limits.mjs";

const LOOK_AGAIN_MS = 5;

/** Resolves once `condition` holds. @throws Error naming `what` when it does not within the deadline */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs: number = LIMITS.unitStepMs,
): Promise<void> {
  const endMs = Date.now() + deadlineMs;
  while (!(await condition())) {
    if (Date.now() > endMs) throw new Error(`cannot go on: waited in vain until ${what}`);
    await delay(LOOK_AGAIN_MS);
  }
}
