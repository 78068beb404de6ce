/**
 * What one run of `erofs-nbd chaos` was and found: the object behind --json, the summary and the HTML report.
 *
 * The engine builds it; summary.ts and report.ts read it. Types only, plain data only: it survives JSON. All times are
 * milliseconds; `…Ms` of a moment counts from the run's begin.
 */

/** `both`: worker and manager killed together. `upgrade` replaces the workers by plan, nothing dies. */
export type FaultKind = "worker" | "hang" | "link" | "manager" | "both" | "upgrade";

/** How the stack answered one fault. */
export interface FaultOutcome {
  /** `none`: no failover was needed, and none took place. */
  readonly level: "takeover" | "reconnect" | "none";
  /** `missing`: nothing was heard of it until the deadline. */
  readonly result: "recovered" | "failed" | "missing";
  /** The manager's own words. */
  readonly cause: string;
  /** How long reads stood still, as the manager measured it. */
  readonly stallMs: number;
}

export interface Fault {
  readonly kind: FaultKind;
  readonly atMs: number;
  /** For example `SIGKILL to worker 4712`. */
  readonly label: string;
  /** Null when the run ended before there was one. */
  readonly outcome: FaultOutcome | null;
  /** The reader's own longest read that was under way at or after the fault, until reads flowed again. */
  readonly longestReadMs: number;
}

/** The reads that ended in one span of time; every span has a point, also one without reads (zeros). */
export interface LatencyPoint {
  /** The span's begin. All spans of a run are equally long. */
  readonly atMs: number;
  readonly reads: number;
  readonly bytes: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/**
 * The faults of one kind. The three times are about stalls: the longest read after each fault, of which the median, the
 * 99th percentile and the longest. `none` is what to compare them with: the longest read in each span of time before
 * the first fault; there `count` is the number of spans.
 */
export interface KindSummary {
  readonly kind: FaultKind | "none";
  readonly count: number;
  readonly takeovers: number;
  readonly reconnects: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly longestMs: number;
}

/** How long single reads took. */
export interface ReadFigures {
  readonly reads: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly longestMs: number;
}

export interface ChaosRun {
  readonly version: string;
  /** `uname -r`. */
  readonly kernel: string;
  readonly nodeVersion: string;
  /** For example `/dev/nbd0`. */
  readonly device: string;
  /** Absolute path of the image. */
  readonly image: string;
  readonly imageBytes: number;
  readonly seed: number;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly durationMs: number;
  readonly intervalMs: number;
  readonly what: readonly FaultKind[];
  /** How many reads the reader keeps going. */
  readonly depth: number;
  readonly faults: readonly Fault[];
  readonly latency: readonly LatencyPoint[];
  readonly kinds: readonly KindSummary[];
  /** Reads before the first fault. */
  readonly baseline: ReadFigures;
  readonly totals: ReadFigures & {
    readonly bytes: number;
    /** Reads that brought bytes other than the image's. */
    readonly wrong: number;
    /** Reads that failed, or brought too few bytes. */
    readonly errors: number;
    /** Failovers that are missing, too many, or told differently by counters and events. */
    readonly uncounted: number;
  };
  readonly verdict: "passed" | "failed";
  /** Each one line; empty when the verdict is passed. */
  readonly problems: readonly string[];
}
