/**
 * Settling the one doubt that a dead worker can leave: whether its last send(2) had happened.
 *
 * The kernel's books say. What it counts as in flight on the device is made of requests still unread in the socket,
 * requests in the journal that surely were not answered, and the replies in doubt, if they were not sent. A unix
 * stream took all of them or none (journal.ts), so the rest is their number or nothing. Errors are one-sided: the kernel
 * counts a request before it can be seen in the socket, and ends it after the reply was read; so the unread requests
 * are read first, and the rest can only seem too large. Nothing left is proof at once that they were sent; that they were
 * not is believed when all the worker ever sent has been read and nothing moves for a while. Anything else settles nothing.
 */

export interface Sample {
  /** Requests the kernel has in flight on the device; read after `unread`. */
  readonly inFlight: number;
  /** Whole requests that nobody has received yet. */
  readonly unread: number;
  /** Whether the kernel has read everything that was sent on the link. */
  readonly allRead: boolean;
}

export interface Doubt {
  /** Requests that were received and surely not answered. */
  readonly pending: number;
  /** Requests whose replies were in the send(2) in doubt. */
  readonly sending: number;
}

export type Account = "sent" | "not-sent" | "unsettled" | "impossible";

/** Nothing may move for so long, in at least this many samples, before a reply counts as not sent. */
export const STILL_MS = 10;
const STILL_SAMPLES = 4;

/** What one sample says by itself; «not-sent» here means: it looks so, if it stays so. */
export function judge(doubt: Doubt, sample: Sample): Account {
  const rest = sample.inFlight - sample.unread - doubt.pending;
  // Fewer in flight than we have to answer: some of those answers would be second ones.
  if (rest < 0) return "impossible";
  if (rest === 0 && doubt.sending > 0) return "sent";
  return rest === doubt.sending && sample.allRead ? "not-sent" : "unsettled";
}

/** Takes samples until the account is settled. */
export class Accountant {
  readonly #doubt: Doubt;
  #last: Sample | undefined;
  #stillSince = 0;
  #stillSamples = 0;

  constructor(doubt: Doubt) {
    this.#doubt = doubt;
  }

  /** Undefined: look again in a moment. */
  take(sample: Sample, nowMs: number): "sent" | "not-sent" | undefined {
    const account = judge(this.#doubt, sample);
    if (account === "sent") return account;
    const same = this.#last?.inFlight === sample.inFlight && this.#last.unread === sample.unread;
    this.#last = sample;
    if (!same || account !== "not-sent") {
      this.#stillSince = nowMs;
      this.#stillSamples = 0;
      return undefined;
    }
    this.#stillSamples += 1;
    return this.#stillSamples >= STILL_SAMPLES && nowMs - this.#stillSince >= STILL_MS ? account : undefined;
  }

  /** Why it could not be settled, for the outcome. */
  explain(): string {
    const { pending, sending } = this.#doubt;
    const seen = this.#last;
    return (
      `the account does not add up: ${seen?.inFlight} in flight, ${seen?.unread} unread, ` +
      `${pending} unanswered, ${sending} in doubt${seen?.allRead === false ? ", and replies still unread" : ""}`
    );
  }
}
