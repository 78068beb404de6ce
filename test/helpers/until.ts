/**
 * Waiting for something that has no event of its own: looks again every few milliseconds, with a deadline.
 */
import { setTimeout as delay } from "node:timers/promises";

const LOOK_AGAIN_MS = 5;
/** Below a test's own limit (vitest.config.ts), above what a busy machine makes of the start of a process. */
const DEADLINE_MS = 60_000;

/** Resolves once `condition` holds. @throws Error naming `what` when it does not within the deadline */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs: number = DEADLINE_MS,
): Promise<void> {
  const endMs = Date.now() + deadlineMs;
  while (!(await condition())) {
    if (Date.now() > endMs) throw new Error(`Cannot go on: waited in vain until ${what}`);
    await delay(LOOK_AGAIN_MS);
  }
}
