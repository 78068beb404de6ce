/**
 * How long reads stood still in a failover, measured by the kernel's count of reads in flight.
 *
 * New reads are answered as soon as a fresh link is up, but reads that were sent on the dead one come back only when
 * the block layer's timer requeues them. Their number is known at the moment of death, because no read is answered
 * then. The count can only fall below it when they have been sent again, so the meter watches the smallest count
 * seen. Under an unbroken load the count never reaches zero; then the last fall is the end.
 */
import { setTimeout as sleep } from "node:timers/promises";

const SAMPLE_MS = 10;
/** The block layer scans for expired requests about once a second (blk_rq_timeout): one scan and a margin. */
const SCAN_MS = 1500;

export class StallMeter {
  readonly #lostAt: number;
  readonly #stranded: number;
  readonly #inFlight: () => number;

  /** Starts the clock at the first sign of death, or `agoMs` before if reads came to a stop earlier. */
  constructor(inFlight: () => number, agoMs = 0) {
    this.#lostAt = performance.now() - agoMs;
    this.#inFlight = inFlight;
    this.#stranded = inFlight();
  }

  /** Reads that were in flight when the link died. */
  get strandedReads(): number {
    return this.#stranded;
  }

  get elapsedMs(): number {
    return performance.now() - this.#lostAt;
  }

  /**
   * The links are restored: waits until the stranded reads have been sent again and returns the milliseconds from the
   * death until then. `requeueMs` is the block layer's timer; the signal ends the waiting.
   */
  async stoodStillMs(requeueMs: number, signal: AbortSignal): Promise<number> {
    let least = this.#stranded;
    let leastAt = this.elapsedMs;
    const giveUpAt = leastAt + requeueMs + SCAN_MS;
    while (least > 0 && this.elapsedMs < giveUpAt && !signal.aborted) {
      await sleep(SAMPLE_MS, undefined, { signal, ref: false }).catch(() => {});
      const now = this.#inFlight();
      if (now < least) {
        least = now;
        leastAt = this.elapsedMs;
      }
    }
    return leastAt;
  }
}
