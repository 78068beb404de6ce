/**
 * How long a link's requests have waited, from samples of its journal at every tick.
 *
 * A request is identified by its journal entry and its cookie, so its age continues when another worker takes over the
 * link. Requests that are unread in the socket cannot be identified: their age is the time since a request was last
 * read or answered. Pure: reads no clock.
 */
import type { Journal } from "../../journal/journal.ts";

interface Seen {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly sinceMs: number;
}

export class RequestAges {
  #seen = new Map<number, Seen>();
  #unreadSinceMs: number | undefined;
  #answered = 0;

  /** Takes a sample of the unanswered requests in the journal and the number of those unread in the socket. */
  note(
    nowMs: number,
    journal: Pick<Journal, "forEachUnanswered" | "requests">,
    unreadRequests: number,
  ): void {
    const before = this.#seen;
    const now = new Map<number, Seen>();
    journal.forEachUnanswered((entry, cookieHigh, cookieLow) => {
      const known = before.get(entry);
      const isSame = known?.cookieHigh === cookieHigh && known.cookieLow === cookieLow;
      now.set(entry, isSame ? known : { cookieHigh, cookieLow, sinceMs: nowMs });
    });
    const { requests } = journal;
    if (unreadRequests === 0) this.#unreadSinceMs = undefined;
    else if (this.#unreadSinceMs === undefined || requests !== this.#answered) this.#unreadSinceMs = nowMs;
    this.#answered = requests;
    this.#seen = now;
  }

  /** No request waits. */
  clear(): void {
    this.#seen.clear();
    this.#unreadSinceMs = undefined;
  }

  /** How long the oldest request has been seen waiting; 0 if none waits. */
  oldestMs(nowMs: number): number {
    let oldestMs = nowMs - (this.#unreadSinceMs ?? nowMs);
    for (const { sinceMs } of this.#seen.values()) oldestMs = Math.max(oldestMs, nowMs - sinceMs);
    return oldestMs;
  }
}
