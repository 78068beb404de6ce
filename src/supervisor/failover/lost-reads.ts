/**
 * Finding reads that the kernel waits for and nobody has: the one thing that would otherwise hang for ever.
 *
 * It cannot happen by what the journal promises; this is for what it does not know of. Looked at every few seconds: reads in
 * flight, while every link's socket and journal are empty, and nothing moves. The cure is a fresh link, after which the
 * kernel sends them again.
 */

export const LOOK_INTERVAL_MS = 2000;
/** Looks in a row that must show the same. */
const PATIENCE_LOOKS = 3;

export interface Look {
  /** Undefined while the kernel's count cannot be trusted. */
  readonly inFlight: number | undefined;
  /** Nothing unread, unanswered or unsent on any link. */
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
