/**
 * Counts failovers by kind, how long reads stalled in them, and handovers, since the manager started.
 *
 * Fed by the observatory, read by metrics-text.ts. Label values come from fixed lists, so that their number does not
 * grow with devices or error texts. Pure.
 */
import type { FailoverCauseClass, FailoverLevel, FailoverOutcome } from "../../supervisor/managed-device.ts";

export const LEVELS: readonly FailoverLevel[] = ["takeover", "reconnect"];
export const RESULTS = ["recovered", "failed"] as const;
export const CAUSE_CLASSES: readonly FailoverCauseClass[] = ["worker-exit", "worker-hang", "link", "manager"];

/** Upper bounds of the stall buckets: a takeover takes milliseconds, a reconnect a second, a hang two seconds. */
export const STALL_BUCKETS_SECONDS: readonly number[] = [
  0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 10, 30, 60, 300,
];

/** Counts per bucket, not cumulative; the last one is for stalls above all bounds. */
export interface StallCounts {
  readonly counts: readonly number[];
  readonly sumSeconds: number;
}

export class FailoverTally {
  readonly #failovers = new Map<string, number>();
  readonly #stalls = new Map<FailoverLevel, { counts: number[]; sumSeconds: number }>(
    LEVELS.map((level) => [level, { counts: STALL_BUCKETS_SECONDS.map(() => 0).concat(0), sumSeconds: 0 }]),
  );
  #handovers = 0;

  failover({ level, result, causeClass, stallMs }: Omit<FailoverOutcome, "at">): void {
    const key = [level, result, causeClass].join();
    this.#failovers.set(key, (this.#failovers.get(key) ?? 0) + 1);
    const stalls = this.#stalls.get(level);
    if (stalls === undefined) return;
    const seconds = stallMs / 1000;
    const found = STALL_BUCKETS_SECONDS.findIndex((end) => seconds <= end);
    const at = found < 0 ? STALL_BUCKETS_SECONDS.length : found;
    stalls.counts[at] = (stalls.counts[at] as number) + 1;
    stalls.sumSeconds += seconds;
  }

  handover(): void {
    this.#handovers += 1;
  }

  get handovers(): number {
    return this.#handovers;
  }

  count(level: FailoverLevel, result: FailoverOutcome["result"], causeClass: FailoverCauseClass): number {
    return this.#failovers.get([level, result, causeClass].join()) ?? 0;
  }

  stalls(level: FailoverLevel): StallCounts {
    return this.#stalls.get(level) as StallCounts;
  }
}
