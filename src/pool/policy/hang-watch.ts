/**
 * Detects workers that are alive but do not serve. There is one HangWatch per worker, called at every tick.
 *
 * A worker is healthy while it answers pings, or requests on any of its links. Only time in which the manager itself
 * ran counts: a manager that was stopped, suspended or starved must not blame its workers for that. Pure: no timer, no
 * clock, no kill; worker-set.ts acts on the verdict.
 */
import { formatSeconds } from "../../text/durations.ts";

/** Interval of the ticks, in milliseconds. At each one the pool calls `tick` and then sends a ping. */
export const TICK_INTERVAL_MS = 250;
/** Patience with a worker that has no links, and the default for a link. */
export const DEFAULT_PATIENCE_MS = 2000;
/** How long a request may wait for an asynchronous source while its worker answers pings. */
export const SLOW_SOURCE_MS = 30_000;
/** Limit of grown patience, unless more was configured. */
export const MAX_PATIENCE_MS = 60_000;

/** A tick that comes more than this many intervals after the previous one means that the manager did not run. */
const LATE_TICKS = 2;
/** On-time ticks, hence pings, that a worker gets after the manager did not run, before it can count as hung. */
const FRESH_TICKS = 4;
/** Least patience, in intervals: less cannot be told from a short delay. */
const LEAST_PATIENCE_TICKS = 6;
/** If the manager is never on time: pings without an answer, and the time, after which a worker counts as hung. */
const UNHEARD_LATE_TICKS = 20;
const UNHEARD_LATE_MS = 30_000;

/** A link of the worker, as its journal and its socket show it. */
export interface WatchedLink {
  readonly link: number;
  /** Requests answered so far. May wrap: only changes are evaluated. */
  readonly answered: number;
  /**
   * Whether requests wait for the worker: unread in the socket, or received and not answered. False if the socket is
   * known to be dead: nothing can be answered there, which is not a hang.
   */
  readonly waiting: boolean;
  readonly patienceMs: number;
  /** Whether its source is asynchronous, so that a slow read does not block the worker. */
  readonly asynchronous: boolean;
  /** Whether the worker is executing code of this link. Then its patience decides, and it is blamed. */
  readonly busy?: boolean;
}

export interface HangTick {
  /** A monotonic clock in milliseconds. */
  readonly nowMs: number;
  /** Answers to pings so far. May wrap: only changes are evaluated. */
  readonly pongs: number;
  readonly links: readonly WatchedLink[];
}

export interface HangVerdict {
  /** The link that is blamed, if that is known. */
  readonly link: number | undefined;
  /** For `status` and the log. */
  readonly reason: string;
  /** How long the worker was silent, at most one interval too much, without time in which the manager did not run. */
  readonly silentMs: number;
}

export interface HangWatchOptions {
  readonly workerPid: number;
  /** When the worker became ready. */
  readonly nowMs: number;
  readonly intervalMs?: number;
}

/**
 * The patience for a link whose workers hung `hangs` times in a row without an answered request in between. It is
 * doubled each time, so that a long read completes at last.
 */
export function grownPatience(baseMs: number, hangs: number): number {
  return Math.max(baseMs, Math.min(baseMs * 2 ** hangs, MAX_PATIENCE_MS));
}

/**
 * Times are on a clock of the watch, which stops while the manager does not run. What is seen at a tick may have
 * happened right after the previous tick, so it is dated back to that one. A verdict is given when the next tick could
 * be later than the patience, so that a hang is noticed within the patience.
 */
export class HangWatch {
  readonly #workerPid: number;
  readonly #intervalMs: number;
  readonly #lateMs: number;
  #links = new Map<number, { answered: number; wellAt: number }>();
  #pongs: number | undefined;
  #ranMs = 0;
  #tickedAtMs: number;
  /** The last ping or request that was answered, and the last request of any link. */
  #heardAt = 0;
  #progressAt = 0;
  /** `#heardAt` on the caller's clock. */
  #heardAtMs: number;
  #unheardLateTicks = 0;
  #ticksOnTime = FRESH_TICKS;

  constructor({ workerPid, nowMs, intervalMs = TICK_INTERVAL_MS }: HangWatchOptions) {
    this.#workerPid = workerPid;
    this.#intervalMs = intervalMs;
    this.#lateMs = LATE_TICKS * intervalMs;
    this.#tickedAtMs = nowMs;
    this.#heardAtMs = nowMs;
  }

  /** How long ago the worker was last heard of, without time in which the manager did not run. */
  get silentMs(): number {
    return this.#ranMs - this.#heardAt;
  }

  /** Undefined while the worker serves. The verdict is repeated at every tick until something changes. */
  tick({ nowMs, pongs, links }: HangTick): HangVerdict | undefined {
    const before = this.#ranMs;
    this.#advance(nowMs);
    const progressed = this.#note(links, before);
    const ponged = this.#pongs !== undefined && this.#pongs !== pongs;
    this.#pongs = pongs;
    if (progressed) this.#progressAt = before;
    if (progressed || ponged) {
      this.#heardAt = before;
      this.#heardAtMs = nowMs;
      this.#unheardLateTicks = 0;
    }
    return this.#silence(links) ?? this.#standstill(links);
  }

  #advance(nowMs: number): void {
    const gap = nowMs - this.#tickedAtMs;
    this.#tickedAtMs = nowMs;
    if (gap < 0 || gap > this.#lateMs) {
      this.#ticksOnTime = 0;
      this.#unheardLateTicks += 1;
      return;
    }
    this.#ranMs += gap;
    // Ticks in quick succession after a late one leave the worker no time to answer in between.
    if (gap >= this.#intervalMs / 2) this.#ticksOnTime += 1;
  }

  /** Stores the state of the links; returns whether any request was answered. */
  #note(links: readonly WatchedLink[], before: number): boolean {
    const former = this.#links;
    this.#links = new Map();
    let progressed = false;
    for (const { link, answered, waiting } of links) {
      const known = former.get(link);
      const answers = known !== undefined && known.answered !== answered;
      if (answers) progressed = true;
      const wellAt = answers || known === undefined ? before : known.wellAt;
      this.#links.set(link, { answered, wellAt: waiting ? wellAt : this.#ranMs });
    }
    return progressed;
  }

  /** The worker answers nothing at all. */
  #silence(links: readonly WatchedLink[]): HangVerdict | undefined {
    const busy = links.filter((link) => link.busy);
    const deciding = busy.length > 0 ? busy : links;
    const patienceMs =
      deciding.length === 0 ? DEFAULT_PATIENCE_MS : Math.min(...deciding.map((link) => link.patienceMs));
    const late = this.#isUnheardByLateManager(patienceMs);
    if (!late && !this.#isOverdue(this.#heardAt, patienceMs)) return undefined;
    // A manager that is never on time has hardly advanced its own clock, so the caller's clock is used.
    const silentMs = late ? this.#tickedAtMs - this.#heardAtMs : this.#ranMs - this.#heardAt;
    const link = busy.length === 1 ? busy[0]?.link : undefined;
    const what = link === undefined ? "in an endless loop" : `stuck in a read of link ${link}`;
    const reason = `worker ${this.#workerPid} has not answered for ${formatSeconds(silentMs)}: stopped, or ${what}`;
    return { link, silentMs, reason };
  }

  /** The worker answers pings, but requests of one of its links wait without progress. */
  #standstill(links: readonly WatchedLink[]): HangVerdict | undefined {
    // A silent worker may be in a long read of another link, whose patience decides.
    if (this.#ranMs - this.#heardAt > 2 * this.#lateMs) return undefined;
    for (const { link, waiting, patienceMs, asynchronous } of links) {
      const wellAt = this.#links.get(link)?.wellAt;
      if (!waiting || wellAt === undefined) continue;
      // While other links progress this one may just be waiting for its turn: their reads may be slow, and many.
      const quiet = !asynchronous && this.#isOverdue(Math.max(wellAt, this.#progressAt), patienceMs);
      if (!quiet && !this.#isOverdue(wellAt, Math.max(SLOW_SOURCE_MS, patienceMs))) continue;
      const silentMs = this.#ranMs - wellAt;
      const how = `has answered nothing on link ${link} for ${formatSeconds(silentMs)} though requests wait`;
      return { link, silentMs, reason: `worker ${this.#workerPid} ${how}` };
    }
    return undefined;
  }

  #isOverdue(since: number, patienceMs: number): boolean {
    if (this.#ticksOnTime < FRESH_TICKS) return false;
    const patience = Math.max(patienceMs, LEAST_PATIENCE_TICKS * this.#intervalMs);
    return this.#ranMs - since > patience - this.#lateMs;
  }

  #isUnheardByLateManager(patienceMs: number): boolean {
    return (
      this.#unheardLateTicks >= UNHEARD_LATE_TICKS &&
      this.#tickedAtMs - this.#heardAtMs > Math.max(patienceMs, UNHEARD_LATE_MS)
    );
  }
}
