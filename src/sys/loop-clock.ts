/**
 * The time as the read-serving loop knows it: read when it wakes up and when replies have left, not for each request.
 *
 * Reading a clock costs a hundredth of a small read. Milliseconds of CLOCK_MONOTONIC, which all processes share. The pump and
 * the journal read it; whoever only wants to know about when it is takes `nowMs` as it stands.
 */

/** What a process has to add to its own clock to get the system's. */
const OFFSET_MS: number = Number(process.hrtime.bigint()) / 1e6 - performance.now();

class LoopClock {
  /** As of the last `read`. */
  nowMs: number = performance.now() + OFFSET_MS;

  read(): number {
    this.nowMs = performance.now() + OFFSET_MS;
    return this.nowMs;
  }
}

export const loopClock: LoopClock = new LoopClock();
