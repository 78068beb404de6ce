/**
 * Detects reads that the kernel waits for and that no worker has: without help they would hang forever.
 *
 * The journal rules this out for every known cause; this is for unknown ones. NetlinkDevice looks every few seconds:
 * reads are in flight, every link's socket and journal are empty, and nothing moves. The remedy is a fresh link, after
 * which the kernel sends the reads again.
 */

export const LOOK_INTERVAL_MS = 2000;
/** Number of looks in a row that must show the same. */
const PATIENCE_LOOKS = 3;

export interface Look {
  /** Undefined while the kernel's count cannot be trusted. */
  readonly inFlight: number | undefined;
  /** Nothing is unread, unanswered or unsent on any link. */
  readonly quiet: boolean;
  /** Requests answered so far. */
  readonly requests: number;
}

export class LostReads {
  #last: Look | undefined;
  #same = 0;

  /** Whether reads are lost. */
  look(look: Look): boolean {
    const last = this.#last;
    this.#last = look;
    const waits = look.inFlight !== undefined && look.inFlight > 0 && look.quiet;
    const same = last !== undefined && last.inFlight === look.inFlight && last.requests === look.requests;
    this.#same = !waits ? 0 : same && last.quiet ? this.#same + 1 : 1;
    return this.#same > PATIENCE_LOOKS;
  }
}
