/**
 * A cached clock for the read-serving loop: updated when the loop wakes up and when replies have left.
 *
 * Reading a clock costs a hundredth of a small read. The value is CLOCK_MONOTONIC in milliseconds, which is the same in
 * all processes. The pump and the journal update it; other code uses `nowMs` as an approximate time.
 */

/** Difference between CLOCK_MONOTONIC and the clock of this process. */
const OFFSET_MS: number = Number(process.hrtime.bigint()) / 1e6 - performance.now();

class LoopClock {
  /** The time of the last `read`. */
  nowMs: number = performance.now() + OFFSET_MS;

  read(): number {
    this.nowMs = performance.now() + OFFSET_MS;
    return this.nowMs;
  }
}

export const loopClock: LoopClock = new LoopClock();
