/**
 * How many workers a set needs, and which of them it can do without. Pure functions, used by worker-set.ts.
 */

import type { WorkerProcess } from "../worker-process.ts";
import { type HangWatch, TICK_INTERVAL_MS } from "./hang-watch.ts";
import { MAX_ISOLATED } from "./placement.ts";
import { levelsOf } from "./stacking.ts";

/** A busy machine is the reason of most shorter silences, and another process would make it busier. */
const SPARE_MS = 5 * TICK_INTERVAL_MS;

/** How many workers are kept for links that must be served alone. */
export function countIsolated(workers: readonly WorkerProcess[]): number {
  const isolating = workers.filter(({ links }) => links.all.some(({ crashes }) => crashes.mustBeAlone));
  return Math.min(isolating.length, MAX_ISOLATED);
}

/** Links that must be served alone, and each further level of stacked devices, take workers of their own. */
export function countNeeded(workers: readonly WorkerProcess[], size: number): number {
  return size + countIsolated(workers) + levelsOf(workers.flatMap(({ links }) => links.all)) - 1;
}

/**
 * Whether a worker with links may be about to hang and none is idle: if it hangs, its links are to go on at once, and
 * the link in which it hung is to get a worker for itself.
 */
export function needsSpare(workers: ReadonlyMap<WorkerProcess, HangWatch | undefined>): boolean {
  const ready = [...workers].filter(([worker]) => worker.isReady);
  const isLongSilent = ready.some(
    ([{ links }, watch]) => links.size > 0 && (watch?.silentMs ?? 0) > SPARE_MS,
  );
  return isLongSilent && !ready.some(([{ isSilent, links }]) => links.size === 0 && !isSilent);
}

/** An idle worker that was started to keep suspects apart, once there are no suspects. */
export function idleSurplus(ready: readonly WorkerProcess[]): WorkerProcess | undefined {
  const hasSuspects = ready.some(({ links }) => links.all.some(({ crashes }) => crashes.suspicion > 0));
  return hasSuspects ? undefined : ready.find((worker) => worker.links.size === 0);
}
