/**
 * How long reads took, in little room: counts by size class instead of millions of numbers.
 *
 * Classes are as fine as 1/64 of their value from 64 µs on and one microsecond below; the longest is kept exactly. The
 * reader fills one per span of time and sends it as plain numbers; the engine adds them up. Pure.
 */

/** [class, count, class, count, …], classes ascending. */
export type SparseCounts = readonly number[];

const FINE = 64;
const FINE_BITS = 6;

/** The class of a duration in whole microseconds. */
function classOf(us: number): number {
  if (us < FINE) return us;
  const shift = Math.floor(Math.log2(us)) - FINE_BITS;
  return FINE * (shift + 1) + (Math.floor(us / 2 ** shift) - FINE);
}

/** The middle of a class, in microseconds. */
function middleOf(index: number): number {
  if (index < FINE) return index;
  const shift = Math.floor(index / FINE) - 1;
  return (FINE + (index % FINE) + 0.5) * 2 ** shift;
}

export class Latencies {
  readonly #counts = new Map<number, number>();
  #count = 0;
  #longestMs = 0;

  /** Counts that another one's `toSparse` gave, and its longest. */
  static fromSparse(counts: SparseCounts, longestMs: number): Latencies {
    const made = new Latencies();
    for (let at = 0; at + 1 < counts.length; at += 2) made.#put(counts[at] ?? 0, counts[at + 1] ?? 0);
    made.#longestMs = longestMs;
    return made;
  }

  get count(): number {
    return this.#count;
  }

  get longestMs(): number {
    return this.#longestMs;
  }

  add(ms: number): void {
    this.#put(classOf(Math.max(0, Math.round(ms * 1000))), 1);
    if (ms > this.#longestMs) this.#longestMs = ms;
  }

  merge(other: Latencies): void {
    for (const [index, count] of other.#counts) this.#put(index, count);
    this.#longestMs = Math.max(this.#longestMs, other.#longestMs);
  }

  /** The time that a share of all reads did not exceed; 0 without reads, exact for the longest. */
  quantile(share: number): number {
    const rank = Math.max(1, Math.ceil(share * this.#count));
    if (rank >= this.#count) return this.#longestMs;
    let seen = 0;
    for (const index of [...this.#counts.keys()].sort((a, b) => a - b)) {
      seen += this.#counts.get(index) ?? 0;
      if (seen >= rank) return Math.min(middleOf(index) / 1000, this.#longestMs);
    }
    return this.#longestMs;
  }

  toSparse(): SparseCounts {
    return [...this.#counts].sort(([a], [b]) => a - b).flat();
  }

  #put(index: number, count: number): void {
    this.#counts.set(index, (this.#counts.get(index) ?? 0) + count);
    this.#count += count;
  }
}

/** The same of a handful of numbers, exactly: the smallest that at least a share of them does not exceed. */
export function quantileOf(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(1, Math.ceil(share * sorted.length)) - 1] ?? 0;
}
