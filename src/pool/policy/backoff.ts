/**
 * How long the pool waits before it starts another worker, when workers die early for reasons of their own.
 *
 * Deaths that are blamed on a link do not count: the link waits instead (blame.ts). Pure: time and chance are
 * arguments.
 */

/** The shortest delay, of links and of workers. */
export const MIN_DELAY_MS = 200;
/** Early deaths in a row that are replaced without delay. */
export const RESTART_BUDGET = 3;
export const MAX_RESTART_DELAY_MS = 10_000;
/** A worker that lived for this long did not die of its start. */
export const SHORT_LIFE_MS = 5000;
/** A pause after which an early death is the first of a new series. */
const RESTART_QUIET_MS = 10_000;

export interface WorkerDeath {
  readonly nowMs: number;
  readonly livedMs: number;
  /** It has answered at least one request. */
  readonly served: boolean;
  /** One of its links is blamed for the death. */
  readonly blamedOnLink: boolean;
}

export class RestartBackoff {
  #failures = 0;
  #failedAtMs = 0;
  #delayMs = 0;

  died({ nowMs, livedMs, served, blamedOnLink }: WorkerDeath): void {
    if (blamedOnLink) return;
    const isNewSeries = nowMs - this.#failedAtMs > this.#delayMs + RESTART_QUIET_MS;
    if (isNewSeries || served || livedMs >= SHORT_LIFE_MS) this.#failures = 0;
    this.#delayMs = 0;
    if (served || livedMs >= SHORT_LIFE_MS) return;
    this.#failures += 1;
    this.#failedAtMs = nowMs;
  }

  /** Draws the delay. Call once for each death or failure to start. */
  delayMs(random: () => number): number {
    const step = this.#failures - RESTART_BUDGET - 1;
    this.#delayMs = step < 0 ? 0 : backoffMs(step, MIN_DELAY_MS, MAX_RESTART_DELAY_MS, random);
    return this.#delayMs;
  }
}

/** Doubles with each step from `leastMs` up to `mostMs`, and is reduced at random by up to half. */
export function backoffMs(step: number, leastMs: number, mostMs: number, random: () => number): number {
  return Math.min(leastMs * 2 ** step, mostMs) * (0.5 + random() / 2);
}
