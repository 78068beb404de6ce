/**
 * What a device has done in the last seconds: the difference between now and a look a few seconds old.
 *
 * Looks are taken by the observatory. Two are kept, so that the window is between one interval and two, never empty. Pure.
 */
import type { RecentTraffic } from "../../control/vitals.ts";
import { quantileMs, since } from "../../journal/latency.ts";

/** Between two looks. */
export const LOOK_MS = 2500;

/** A device's counts at one moment. */
export interface Look {
  readonly atMs: number;
  readonly requests: number;
  readonly readBytes: number;
  readonly latencies: readonly number[];
}

export class TrafficWindow {
  #older: Look | undefined;
  #newer: Look | undefined;

  /** Remembers a look; the one before the last is forgotten. */
  keep(look: Look): void {
    this.#older = this.#newer;
    this.#newer = look;
  }

  /** Null before the first look, when there is nothing to compare with. */
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

/** To a thousandth: more digits would claim more than was measured. */
const rounded = (value: number): number => Math.round(value * 1000) / 1000;
