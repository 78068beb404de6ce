/**
 * What the engine and its reader process say to each other, over the channel that Node gives a child.
 *
 * Moments are milliseconds of the machine's monotonic clock, which both processes share (`monotonicMs`), so that they
 * need not agree on anything else. Types, and that one function.
 */
import type { SparseCounts } from "../latencies.ts";

/** The reader's whole configuration; its first message. */
export interface ReaderStart {
  readonly type: "start";
  readonly device: string;
  readonly image: string;
  readonly imageBytes: number;
  readonly deviceBytes: number;
  readonly blockSizeBytes: number;
  /** Reads kept going; the process must have as many threads for them (UV_THREADPOOL_SIZE). */
  readonly depth: number;
  /** How many of them are large and in order. */
  readonly largeSlots: number;
  readonly seed: number;
  /** When the run began: spans count from here. */
  readonly beginMs: number;
  readonly spanMs: number;
  /** Past the page cache; off only where a test reads an ordinary file. */
  readonly direct: boolean;
}

export type ReaderRequest =
  | ReaderStart
  /** From now on every read that ends belongs to the window, too. */
  | { readonly type: "open" }
  /** Wait until every read that is under way now has ended, and as many again as the depth; then close the window. */
  | { readonly type: "settle" }
  /** Finish the reads in flight, send `stopped`, and exit. */
  | { readonly type: "stop" };

/** The reads that ended in one span of time. */
export interface Span {
  readonly type: "span";
  /** Which span since the run's begin. Spans without reads are not sent. */
  readonly index: number;
  readonly bytes: number;
  readonly counts: SparseCounts;
  readonly longestMs: number;
}

export type ReaderMessage =
  /** As many reads as the depth are on their way. */
  | { readonly type: "reading" }
  | Span
  | { readonly type: "opened" }
  /** The longest read that ended in the window. */
  | { readonly type: "settled"; readonly longestMs: number; readonly reads: number }
  /** `count` of that kind so far, this one included; only the first few have a text. */
  | { readonly type: "trouble"; readonly wrong: number; readonly errors: number; readonly what: string }
  /** It could not begin, and leaves. */
  | { readonly type: "failed"; readonly why: string }
  /** It has read its last; the totals. */
  | {
      readonly type: "stopped";
      readonly reads: number;
      readonly bytes: number;
      readonly wrong: number;
      readonly errors: number;
    };

/** CLOCK_MONOTONIC in milliseconds: the same for every process of a machine. */
export const monotonicMs = (): number => {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6;
};
