/**
 * Crash-loop policy for links: which links are suspected of crashing their workers, and how long they wait for another.
 *
 * A link that was being served when its worker died gets a strike. A few strikes cost nothing. More of them cost a
 * delay that grows with their number. A period of good service removes all strikes, and no link is ever given up.
 * Links without strikes never wait. placement.ts keeps suspects apart from other links. Pure: time and chance are
 * arguments.
 */
import { formatDelay } from "../../text/durations.ts";
import { backoffMs, MIN_DELAY_MS } from "./backoff.ts";
import type { PlacementPolicy } from "./placement.ts";

/** Strikes that cost a link no delay. */
export const BUDGET = 3;
/** Good service that removes one strike, in milliseconds. */
export const STRIKE_LIFE_MS = 3500;
/** Good service that removes all strikes. */
export const PROBATION_MS = 5000;
export const MAX_DELAY_MS = 30_000;
/** Limit for a link without waiting reads: a delay costs its next reader more than an attempt costs the pool. */
export const MAX_IDLE_DELAY_MS = 2000;

/** Strikes for an only link that was idle when its worker died: a signal from outside is a likely cause. */
const IDLE_STRIKE = 0.5;
/** From so many unexplained deaths in a row on, the links that were present are suspects. */
const UNEXPLAINED_LIMIT = 2;
/** The most that one tick can add to the time of good service: the manager may not have run in between. */
const MAX_TICK_MS = 500;

/**
 * What a link has to do with the death of its worker:
 * "busy": the worker was executing code of this link · "alone": the worker had no other link, so this one is blamed ·
 * "bystander": the worker was executing code of another link · "unexplained": it was executing code of no link.
 */
export type Role = "busy" | "alone" | "bystander" | "unexplained";

/** The role of one of the links of a dead worker; `links` are all of them, this one included. */
export function roleOf(link: { readonly busy: boolean }, links: readonly { readonly busy: boolean }[]): Role {
  if (link.busy) return "busy";
  if (links.length <= 1) return "alone";
  return links.some(({ busy }) => busy) ? "bystander" : "unexplained";
}

/** The death of a worker, as seen by one of its links. */
export interface LinkDeath {
  /** A monotonic clock in milliseconds. */
  readonly nowMs: number;
  readonly role: Role;
  /** No request of this link waited for an answer. */
  readonly idle: boolean;
  /** Requests answered so far. May wrap: only changes are evaluated. */
  readonly answered: number;
  /** The worker was killed because it hung. */
  readonly hung: boolean;
  /** For example "worker 4712 was killed by SIGABRT". */
  readonly reason: string;
}

/** The state of a link at a tick, while a worker serves it. */
export interface LinkService {
  readonly nowMs: number;
  readonly answered: number;
  /** Whether requests wait for an answer. */
  readonly waiting: boolean;
}

/** When the link may be given to another worker, and to which. */
export type NextAttempt =
  | { readonly kind: "at-once"; readonly placement: PlacementPolicy }
  | {
      readonly kind: "later";
      readonly delayMs: number;
      readonly placement: "suspects-only" | "alone";
      /** For `status`. */
      readonly reason: string;
    };

/** Tracks the worker crashes that are attributed to one link. It is kept for the life of the link. */
export class CrashRecord {
  #strikes = 0;
  #unexplained = 0;
  #hangs = 0;
  #mustBeAlone = false;
  #goodMs = 0;
  /** Answered requests at the last death, and at the last tick. */
  #answered = 0;
  #answeredAtTick = 0;
  #tickedAtMs: number | undefined;
  #attemptAtMs: number | undefined;
  #deaths = 0;
  #firstDeathMs = 0;
  #last: LinkDeath | undefined;

  /** How likely the link is to crash workers. 0 is innocent; of other values only the order is significant. */
  get suspicion(): number {
    return this.#strikes + (this.#unexplained < UNEXPLAINED_LIMIT ? 0 : this.#unexplained / 100);
  }

  /** Deaths that the link was blamed for, less what good service has removed. */
  get strikes(): number {
    return this.#strikes;
  }

  /** Hangs in a row without an answered request in between: the argument of `grownPatience`. */
  get hangsWithoutProgress(): number {
    return this.#hangs;
  }

  /**
   * Whether a worker was killed because it hung in this link's code. A crash costs the other links of a worker
   * milliseconds, a hang costs them a patience each time, so such a link gets a worker for itself until it has served
   * well.
   */
  get mustBeAlone(): boolean {
    return this.#mustBeAlone;
  }

  /** The link's worker has died. Call `nextAttempt` after it. */
  died(death: LinkDeath): void {
    const progressed = this.#answered !== death.answered;
    this.#answered = death.answered;
    this.#goodMs = 0;
    this.#tickedAtMs = undefined;
    this.#attemptAtMs = undefined;
    // A link that crashes workers does so before it is answered. If it was answered, the cause is likely another.
    if (progressed) {
      this.#strikes /= 2;
      this.#unexplained = 0;
      this.#hangs = 0;
    }
    if (death.role === "unexplained") this.#unexplained += 1;
    if (death.role !== "busy" && death.role !== "alone") return;
    if (death.hung && !death.idle) {
      this.#hangs += 1;
      this.#mustBeAlone = true;
    }
    this.#strikes += death.idle && death.role === "alone" ? IDLE_STRIKE : 1;
    if (this.#deaths === 0) this.#firstDeathMs = death.nowMs;
    this.#deaths += 1;
    this.#last = death;
  }

  /** When to try again. The time is drawn once per death; further calls return what is left of it. */
  nextAttempt(nowMs: number, random: () => number): NextAttempt {
    if (this.#strikes <= BUDGET) return { kind: "at-once", placement: this.#mustBeAlone ? "alone" : "any" };
    const placement = this.#mustBeAlone ? "alone" : "suspects-only";
    this.#attemptAtMs ??= nowMs + this.#drawDelayMs(random);
    const delayMs = this.#attemptAtMs - nowMs;
    if (delayMs <= 0) return { kind: "at-once", placement };
    return { kind: "later", delayMs, placement, reason: this.#describe(nowMs, delayMs) };
  }

  /** Why the link waits; undefined while it does not. */
  stalledReason(nowMs: number): string | undefined {
    if (this.#attemptAtMs === undefined || this.#attemptAtMs <= nowMs) return undefined;
    return this.#describe(nowMs, this.#attemptAtMs - nowMs);
  }

  /** Call at every tick while a worker serves the link. Service is good while requests are answered or none waits. */
  served({ nowMs, answered, waiting }: LinkService): void {
    const sinceMs = this.#tickedAtMs === undefined ? 0 : nowMs - this.#tickedAtMs;
    const moves = this.#tickedAtMs !== undefined && this.#answeredAtTick !== answered;
    this.#tickedAtMs = nowMs;
    this.#answeredAtTick = answered;
    if (answered !== this.#answered) this.#hangs = 0;
    if (waiting && !moves) return;
    const goodMs = Math.min(Math.max(sinceMs, 0), MAX_TICK_MS);
    this.#goodMs += goodMs;
    this.#strikes = Math.max(0, this.#strikes - goodMs / STRIKE_LIFE_MS);
    if (this.#goodMs < PROBATION_MS) return;
    this.#strikes = 0;
    this.#unexplained = 0;
    this.#mustBeAlone = false;
    this.#deaths = 0;
    this.#last = undefined;
  }

  #drawDelayMs(random: () => number): number {
    const mostMs = this.#last?.idle === true ? MAX_IDLE_DELAY_MS : MAX_DELAY_MS;
    return backoffMs(Math.ceil(this.#strikes) - BUDGET - 1, MIN_DELAY_MS, mostMs, random);
  }

  #describe(nowMs: number, delayMs: number): string {
    const seconds = Math.max(1, Math.ceil((nowMs - this.#firstDeathMs) / 1000));
    const last = this.#last?.reason ?? "unknown";
    const next = `next attempt in ${formatDelay(delayMs)}`;
    return `its workers die: ${this.#deaths} in the last ${seconds} s, last: ${last}; ${next}`;
  }
}
