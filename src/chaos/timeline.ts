/**
 * The reader's measurements in the order of time, for runs of any length: spans, added up the more the longer it lasts.
 *
 * The reader sends one span each SPAN_MS. Once there are too many of them, neighbours are merged and all become twice
 * as long. Reads before the first fault are kept apart, because everything else is compared with them.
 */
import { Latencies, quantileOf } from "./latencies.ts";
import type { Span } from "./reader/reader-protocol.ts";
import type { KindSummary, LatencyPoint, ReadFigures } from "./run.ts";

/** How long the reader's spans are. */
export const SPAN_MS = 200;
const MAX_SPANS = 2400;

interface Sum {
  bytes: number;
  readonly latencies: Latencies;
}

export class Timeline {
  readonly #all = new Latencies();
  readonly #baseline = new Latencies();
  readonly #baselineLongest: number[] = [];
  #isBaseline = true;
  #bytes = 0;
  #sums = new Map<number, Sum>();
  /** How many of the reader's spans make one span of the timeline. */
  #width = 1;

  get reads(): number {
    return this.#all.count;
  }

  get bytes(): number {
    return this.#bytes;
  }

  add({ index, bytes, counts, longestMs }: Span): void {
    const latencies = Latencies.fromSparse(counts, longestMs);
    this.#bytes += bytes;
    this.#all.merge(latencies);
    if (this.#isBaseline) {
      this.#baseline.merge(latencies);
      this.#baselineLongest.push(longestMs);
    }
    this.#put(Math.floor(index / this.#width), { bytes, latencies });
    while (this.#sums.size > MAX_SPANS) this.#widen();
  }

  /** The first fault is about to happen. */
  endBaseline(): void {
    this.#isBaseline = false;
  }

  /** One point for each span from the run's begin to `durationMs`, also where no read ended. */
  points(durationMs: number): LatencyPoint[] {
    const spanMs = SPAN_MS * this.#width;
    const count = Math.max(
      Math.ceil(durationMs / spanMs),
      ...[...this.#sums.keys()].map((index) => index + 1),
    );
    return Array.from({ length: count }, (_, index) => {
      const { bytes, latencies } = this.#sums.get(index) ?? { bytes: 0, latencies: new Latencies() };
      return {
        atMs: index * spanMs,
        reads: latencies.count,
        bytes,
        p50Ms: round(latencies.quantile(0.5)),
        p99Ms: round(latencies.quantile(0.99)),
        maxMs: round(latencies.longestMs),
      };
    });
  }

  baselineFigures(): ReadFigures {
    return figuresOf(this.#baseline);
  }

  totalFigures(): ReadFigures {
    return figuresOf(this.#all);
  }

  /** The row to compare stalls with; see KindSummary. */
  baselineSummary(): KindSummary {
    return {
      kind: "none",
      count: this.#baselineLongest.length,
      takeovers: 0,
      reconnects: 0,
      p50Ms: round(quantileOf(this.#baselineLongest, 0.5)),
      p99Ms: round(quantileOf(this.#baselineLongest, 0.99)),
      longestMs: round(quantileOf(this.#baselineLongest, 1)),
    };
  }

  #put(index: number, { bytes, latencies }: Sum): void {
    const sum = this.#sums.get(index);
    if (sum === undefined) {
      this.#sums.set(index, { bytes, latencies });
      return;
    }
    sum.bytes += bytes;
    sum.latencies.merge(latencies);
  }

  #widen(): void {
    const before = this.#sums;
    this.#sums = new Map();
    this.#width *= 2;
    for (const [index, sum] of before) this.#put(Math.floor(index / 2), sum);
  }
}

function figuresOf(latencies: Latencies): ReadFigures {
  return {
    reads: latencies.count,
    p50Ms: round(latencies.quantile(0.5)),
    p99Ms: round(latencies.quantile(0.99)),
    p999Ms: round(latencies.quantile(0.999)),
    longestMs: round(latencies.longestMs),
  };
}

/** Three digits behind the point: microseconds. */
export const round = (ms: number): number => Math.round(ms * 1000) / 1000;
