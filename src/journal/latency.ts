/**
 * How long requests took, as counts in buckets: what a worker adds up in its link's journal, and what is read from it.
 *
 * Bucket 0 is below 16 µs; from there each doubling is four buckets wide, up to 134 s, and the last bucket is all beyond.
 * Behind the buckets stands the sum of all latencies in milliseconds. Plain doubles, each written by one process only, and
 * nothing is decided by them: a worker that is killed between two stores costs a count and no more.
 */

const FIRST_EXPONENT = 4;
const LAST_EXPONENT = 26;
/** Buckets of one doubling. */
const STEPS = 4;
const OVERFLOW = (LAST_EXPONENT - FIRST_EXPONENT + 1) * STEPS + 1;
/** Where the sum stands. */
const SUM = OVERFLOW + 1;
/** Doubles that one set of buckets takes, the sum included. */
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

/** Where a bucket ends, in milliseconds; the last one never does. */
function endOf(bucket: number): number {
  if (bucket === OVERFLOW) return Number.POSITIVE_INFINITY;
  const exponent = FIRST_EXPONENT + Math.floor(bucket / STEPS);
  return (2 ** exponent * (1 + (bucket % STEPS) / STEPS)) / 1000;
}

/** Requests and their latencies, for the outside: what fell into doublings of 16 µs, not cumulated. */
export interface LatencySummary {
  readonly count: number;
  readonly sumSeconds: number;
  /** By upper end in seconds, ascending; the last one is Infinity. */
  readonly doublings: ReadonlyArray<{ readonly upToSeconds: number; readonly count: number }>;
}

/** What a set of buckets says; an empty one is all zeros. */
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

/** What has come since `before`, both of the same device. A set that was begun anew counts from zero. */
export function since(buckets: readonly number[], before: readonly number[]): number[] {
  return buckets.map((value, at) => Math.max(0, value - (before[at] ?? 0)));
}

/**
 * The latency in milliseconds that a share (0 to 1) of the requests did not exceed, to an eighth; null without requests.
 * Inside a bucket they are taken to be spread evenly.
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
