/**
 * How long reads stood still in a failover, as seen from the kernel's side.
 *
 * New reads flow as soon as a fresh link is up, but reads that were on the wire of the dead one come back only
 * when the block layer's timer requeues them. How many those are is known at the moment of death (nobody answers
 * any more), and the number in flight can only fall below it when they have gone out again: the meter watches
 * the smallest number seen. Under an unbroken load it never sees zero; then the last fall counts.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { readsInFlight } from "../../kernel/sysfs.ts";

const SAMPLE_MS = 10;
/** The block layer scans for expired requests about once a second (blk_rq_timeout), so add one scan and a bit. */
const SCAN_MS = 1500;

export class StallMeter {
  readonly #index: number;
  readonly #lostAt: number;
  readonly #stranded: number;
  readonly #inFlight: (index: number) => number;

  /** Starts the clock: call at the first sign of death, or `agoMs` after reads came to a stop. */
  constructor(index: number, inFlight: (index: number) => number = readsInFlight, agoMs = 0) {
    this.#lostAt = performance.now() - agoMs;
    this.#index = index;
    this.#inFlight = inFlight;
    this.#stranded = inFlight(index);
  }

  /** Reads that were on the wire when the link died. */
  get strandedReads(): number {
    return this.#stranded;
  }

  get elapsedMs(): number {
    return performance.now() - this.#lostAt;
  }

  /**
   * Call when links are restored: waits until the stranded reads have gone out again and returns the milliseconds
   * from the death until then. `requeueMs` is the block layer's timer; the signal ends the waiting.
   */
  async stoodStillMs(requeueMs: number, signal: AbortSignal): Promise<number> {
    let least = this.#stranded;
    let leastAt = this.elapsedMs;
    const giveUpAt = leastAt + requeueMs + SCAN_MS;
    while (least > 0 && this.elapsedMs < giveUpAt && !signal.aborted) {
      await sleep(SAMPLE_MS, undefined, { signal, ref: false }).catch(() => {});
      const now = this.#inFlight(this.#index);
      if (now < least) {
        least = now;
        leastAt = this.elapsedMs;
      }
    }
    return leastAt;
  }
}
