/**
 * Latencies of requests, as counts in buckets: a worker adds to them in its link's journal, the manager reads them.
 *
 * Bucket 0 is below 16 µs; from there each doubling takes four buckets, up to 134 s, and the last bucket has no upper
 * end. The sum of all latencies in milliseconds follows the buckets. They are plain doubles, each written by one
 * process only, and decide nothing: a worker that is killed between two stores loses a count.
 */

const FIRST_EXPONENT = 4;
const LAST_EXPONENT = 26;
/** Buckets of one doubling. */
const STEPS = 4;
const OVERFLOW = (LAST_EXPONENT - FIRST_EXPONENT + 1) * STEPS + 1;
/** Index of the sum. */
const SUM = OVERFLOW + 1;
/** Doubles of one set of buckets, with the sum. */
export const LATENCY_WORDS: number = SUM + 1;

const LIMIT_US = 2 ** (LAST_EXPONENT + 1);

/** Adds one request that took so many milliseconds. */
export function addLatency(buckets: Float64Array, milliseconds: number): void {
  const at = bucketOf(milliseconds * 1000);
  buckets[at] = (buckets[at] as number) + 1;
  buckets[SUM] = (buckets[SUM] as number) + milliseconds;
}

function bucketOf(microseconds: number): number {
  if (microseconds >= LIMIT_US) return OVERFLOW;
  const whole = microseconds | 0;
  if (whole < 1 << FIRST_EXPONENT) return 0;
  const exponent = 31 - Math.clz32(whole);
  return (exponent - FIRST_EXPONENT) * STEPS + ((whole >> (exponent - 2)) & (STEPS - 1)) + 1;
}

/** The upper end of a bucket in milliseconds; Infinity for the last one. */
function endOf(bucket: number): number {
  if (bucket === OVERFLOW) return Number.POSITIVE_INFINITY;
  const exponent = FIRST_EXPONENT + Math.floor(bucket / STEPS);
  return (2 ** exponent * (1 + (bucket % STEPS) / STEPS)) / 1000;
}

/** Requests and their latencies, counted by doublings of 16 µs, not cumulated. */
export interface LatencySummary {
  readonly count: number;
  readonly sumSeconds: number;
  /** By upper end in seconds, ascending; the last one is Infinity. */
  readonly doublings: ReadonlyArray<{ readonly upToSeconds: number; readonly count: number }>;
}

/** Summarises a set of buckets; an empty array counts as zeros. */
export function summarise(buckets: readonly number[]): LatencySummary {
  const doublings: Array<{ upToSeconds: number; count: number }> = [];
  let count = 0;
  let gathered = 0;
  for (let bucket = 0; bucket <= OVERFLOW; bucket += 1) {
    gathered += buckets[bucket] ?? 0;
    if (bucket % STEPS !== 0 && bucket !== OVERFLOW) continue;
    doublings.push({ upToSeconds: endOf(bucket) / 1000, count: gathered });
    count += gathered;
    gathered = 0;
  }
  return { count, sumSeconds: (buckets[SUM] ?? 0) / 1000, doublings };
}

/** How many requests a set of buckets holds. */
export function countOf(buckets: readonly number[]): number {
  let count = 0;
  for (let bucket = 0; bucket <= OVERFLOW; bucket += 1) count += buckets[bucket] ?? 0;
  return count;
}

/** The sum of the latencies, in seconds. */
export const sumSecondsOf = (buckets: readonly number[]): number => (buckets[SUM] ?? 0) / 1000;

/** The difference since `before`, of the same device. Negative differences (the set was started anew) count as 0. */
export function since(buckets: readonly number[], before: readonly number[]): number[] {
  return buckets.map((value, at) => Math.max(0, value - (before[at] ?? 0)));
}

/**
 * The latency in milliseconds that a share (0 to 1) of the requests did not exceed, with an error of at most an eighth;
 * null without requests. Latencies are assumed to be spread evenly inside a bucket.
 */
export function quantileMs(buckets: readonly number[], share: number): number | null {
  const wanted = countOf(buckets) * share;
  if (wanted === 0) return null;
  let below = 0;
  for (let bucket = 0; bucket <= OVERFLOW; bucket += 1) {
    const here = buckets[bucket] ?? 0;
    if (below + here >= wanted && here > 0) {
      const from = bucket === 0 ? 0 : endOf(bucket - 1);
      if (bucket === OVERFLOW) return from;
      return from + (endOf(bucket) - from) * ((wanted - below) / here);
    }
    below += here;
  }
  return endOf(OVERFLOW - 1);
}
