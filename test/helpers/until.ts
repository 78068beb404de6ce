/** Waits for a state that has no event of its own: looks again every few milliseconds, with a deadline. */
import { setTimeout as delay } from "node:timers/promises";
import { LIMITS } from "../limits.mjs";

const LOOK_AGAIN_MS = 2;

/** Resolves once `condition` holds. @throws Error that names `what`, if it does not hold within the deadline */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs: number = LIMITS.unitStepMs,
  pauseMs: number = LOOK_AGAIN_MS,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`timed out after ${deadlineMs} ms waiting for: ${what}`);
    await delay(pauseMs);
  }
}

/** Runs everything that is due, for this number of event loop turns. */
export async function turns(count = 5): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}
