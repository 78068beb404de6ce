/**
 * Settles the one doubt that a dead worker can leave: whether its last send(2) has happened.
 *
 * Used by recovery.ts. What the kernel counts as in flight on the device consists of the requests still unread in the
 * socket, the requests in the journal that were certainly not answered, and, if they were not sent, the replies in
 * doubt. A unix stream took all of these or none (layout.ts), so the rest is their number or 0. Errors are one-sided:
 * the kernel counts a request before it can be seen in the socket, and stops counting it after it has read the reply.
 * The unread requests are sampled first, so the rest can only seem too large. A rest of 0 proves at once that the
 * replies were sent. That they were not sent is concluded when the kernel has read everything that the worker sent and
 * nothing moves for a while. Anything else settles nothing.
 */

export interface Sample {
  /** Requests that the kernel has in flight on the device; sampled after `unread`. */
  readonly inFlight: number;
  /** Whole requests in the socket. */
  readonly unread: number;
  /** Whether the kernel has read everything that was sent on the link. */
  readonly allRead: boolean;
}

export interface Doubt {
  /** Requests that were received and certainly not answered. */
  readonly pending: number;
  /** Requests whose replies were in the send(2) in doubt. */
  readonly sending: number;
}

export type Account = "sent" | "not-sent" | "unsettled" | "impossible";

/** A reply counts as not sent when nothing has moved for so long, in at least STILL_SAMPLES samples. */
export const STILL_MS = 10;
const STILL_SAMPLES = 4;

/** What one sample says. Here "not-sent" holds only if it does not change. */
export function judge(doubt: Doubt, sample: Sample): Account {
  const rest = sample.inFlight - sample.unread - doubt.pending;
  // Fewer in flight than unanswered: some requests would be answered twice.
  if (rest < 0) return "impossible";
  if (rest === 0 && doubt.sending > 0) return "sent";
  return rest === doubt.sending && sample.allRead ? "not-sent" : "unsettled";
}

/** Takes samples until the doubt is settled. */
export class Accountant {
  readonly #doubt: Doubt;
  #last: Sample | undefined;
  #stillSince = 0;
  #stillSamples = 0;

  constructor(doubt: Doubt) {
    this.#doubt = doubt;
  }

  /** Undefined: take another sample. */
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

  /** Why the doubt could not be settled, for the outcome. */
  explain(): string {
    const { pending, sending } = this.#doubt;
    const seen = this.#last;
    return (
      `the account does not add up: ${seen?.inFlight} in flight, ${seen?.unread} unread, ` +
      `${pending} unanswered, ${sending} in doubt${seen?.allRead === false ? ", and replies still unread" : ""}`
    );
  }
}
