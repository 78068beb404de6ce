/**
 * Keeps a storm of log lines from becoming the next problem: of lines that are alike only the first few are written in each
 * window, the others are counted, and one line says how many they were.
 *
 * Used by log.ts. Lines are alike when they differ in figures alone; a device's name is no figure. Pure: no clock, no timer.
 */

/** Lines of one kind in a window. */
export const BURST_LINES = 10;
export const WINDOW_MS = 10_000;
/** Lines of all kinds together: 500 devices that fail over write three each. */
export const MAX_LINES = 5000;

export interface Suppressed<L> {
  readonly level: L;
  /** The last one that was not written. */
  readonly message: string;
  readonly count: number;
}

interface Kind<L> {
  written: number;
  suppressed: number;
  level: L;
  last: string;
}

/** `L` is what levels are; they are compared by their text. */
export class LineLimiter<L extends string> {
  readonly #kinds = new Map<string, Kind<L>>();
  #startedAtMs = Number.NEGATIVE_INFINITY;
  #lines = 0;

  /** Whether a line may be written. Ask for `ended` before, so that what was left out comes first. */
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

  /** When what was left out is to be told, on the clock of `ended`; undefined while there is nothing to tell. */
  get dueAtMs(): number | undefined {
    const isHolding = [...this.#kinds.values()].some(({ suppressed }) => suppressed > 0);
    return isHolding ? this.#startedAtMs + WINDOW_MS : undefined;
  }

  /** What was left out in a window that is over by now; a new one begins. Nothing while it goes on. */
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
