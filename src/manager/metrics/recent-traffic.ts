/**
 * The traffic of a device in the last seconds: the difference between now and a sample a few seconds old.
 *
 * Samples are taken by the observatory. Two are kept, so that the window is between one interval and two long. Pure.
 */
import type { RecentTraffic } from "../../control/vitals.ts";
import { quantileMs, since } from "../../journal/latency.ts";

/** Between two samples. */
export const LOOK_MS = 2500;

/** The counts of a device at one moment. */
export interface Look {
  readonly atMs: number;
  readonly requests: number;
  readonly readBytes: number;
  readonly latencies: readonly number[];
}

export class TrafficWindow {
  #older: Look | undefined;
  #newer: Look | undefined;

  /** Adds a sample and drops the older one of the two. */
  keep(look: Look): void {
    this.#older = this.#newer;
    this.#newer = look;
  }

  /** Null before the first sample. */
  until(now: Look): RecentTraffic | null {
    const before = this.#older ?? this.#newer;
    if (before === undefined || now.atMs <= before.atMs) return null;
    const seconds = (now.atMs - before.atMs) / 1000;
    const perSecond = (count: number): number => rounded(Math.max(0, count) / seconds);
    const latencies = since(now.latencies, before.latencies);
    const quantile = (share: number): number | null => {
      const milliseconds = quantileMs(latencies, share);
      return milliseconds === null ? null : rounded(milliseconds);
    };
    return {
      seconds: rounded(seconds),
      requestsPerSecond: perSecond(now.requests - before.requests),
      readBytesPerSecond: perSecond(now.readBytes - before.readBytes),
      p50Ms: quantile(0.5),
      p99Ms: quantile(0.99),
    };
  }
}

/** To a thousandth, which is about the precision of the measurement. */
const rounded = (value: number): number => Math.round(value * 1000) / 1000;
