/**
 * For how long a link's requests have waited, from looks at its journal every quarter of a second.
 *
 * A request is known by its slot and its cookie, so its age goes on when another worker takes the link over. What waits
 * unread in the socket has no name: its age is how long nothing has been read or answered. Pure: reads no clock.
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

  /** A look: what the journal holds unanswered, and how many requests are unread in the socket. */
  note(
    nowMs: number,
    journal: Pick<Journal, "forEachUnanswered" | "requests">,
    unreadRequests: number,
  ): void {
    const before = this.#seen;
    const now = new Map<number, Seen>();
    journal.forEachUnanswered((slot, cookieHigh, cookieLow) => {
      const known = before.get(slot);
      const isSame = known?.cookieHigh === cookieHigh && known.cookieLow === cookieLow;
      now.set(slot, isSame ? known : { cookieHigh, cookieLow, sinceMs: nowMs });
    });
    const { requests } = journal;
    if (unreadRequests === 0) this.#unreadSinceMs = undefined;
    else if (this.#unreadSinceMs === undefined || requests !== this.#answered) this.#unreadSinceMs = nowMs;
    this.#answered = requests;
    this.#seen = now;
  }

  /** Nothing waits. */
  clear(): void {
    this.#seen.clear();
    this.#unreadSinceMs = undefined;
  }

  /** How long the oldest has been seen waiting; 0 when none was. */
  oldestMs(nowMs: number): number {
    let oldestMs = nowMs - (this.#unreadSinceMs ?? nowMs);
    for (const { sinceMs } of this.#seen.values()) oldestMs = Math.max(oldestMs, nowMs - sinceMs);
    return oldestMs;
  }
}
