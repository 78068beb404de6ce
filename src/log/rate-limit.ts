/**
 * Limits the rate of similar log lines: the first few in each window are written, the others are counted and reported
 * by one line at its end.
 *
 * Used by log.ts. Lines are similar if they differ in numbers only; a device's name is not a number. Pure: no clock, no
 * timer.
 */

/** Similar lines that are written in one window. */
export const BURST_LINES = 10;
export const WINDOW_MS = 10_000;
/** Limit of all lines in one window: 500 devices that fail over write three each. */
export const MAX_LINES = 5000;

export interface Suppressed<L> {
  readonly level: L;
  /** The last line that was suppressed. */
  readonly message: string;
  readonly count: number;
}

interface Kind<L> {
  written: number;
  suppressed: number;
  level: L;
  last: string;
}

/** `L` is the type of levels. */
export class LineLimiter<L extends string> {
  readonly #kinds = new Map<string, Kind<L>>();
  #startedAtMs = Number.NEGATIVE_INFINITY;
  #lines = 0;

  /** Whether a line may be written. Call `ended` first, so that earlier suppressed lines are reported before it. */
  admit(level: L, message: string): boolean {
    const isFlood = this.#lines >= MAX_LINES;
    const key = isFlood ? `${level} of all kinds` : `${level} ${kindOf(message)}`;
    let kind = this.#kinds.get(key);
    if (kind === undefined) {
      kind = { written: 0, suppressed: 0, level, last: message };
      this.#kinds.set(key, kind);
    }
    if (!isFlood && kind.written < BURST_LINES) {
      kind.written += 1;
      this.#lines += 1;
      return true;
    }
    kind.suppressed += 1;
    kind.last = message;
    return false;
  }

  /** When to report suppressed lines, on the clock of `ended`; undefined if there are none. */
  get dueAtMs(): number | undefined {
    const isHolding = [...this.#kinds.values()].some(({ suppressed }) => suppressed > 0);
    return isHolding ? this.#startedAtMs + WINDOW_MS : undefined;
  }

  /** Ends the window if its time is over, and returns what was suppressed in it. */
  ended(nowMs: number): Suppressed<L>[] {
    if (nowMs - this.#startedAtMs < WINDOW_MS) return [];
    this.#startedAtMs = nowMs;
    this.#lines = 0;
    const left = [...this.#kinds.values()]
      .filter(({ suppressed }) => suppressed > 0)
      .map(({ level, last, suppressed }) => ({ level, message: last, count: suppressed }));
    this.#kinds.clear();
    return left;
  }
}

const MAX_KIND_CHARACTERS = 200;

function kindOf(message: string): string {
  return message
    .slice(0, MAX_KIND_CHARACTERS)
    .replace(/(nbd)?\d+(?:\.\d+)?/g, (found, device?: string) => (device === undefined ? "#" : found));
}
