/**
 * Judges whether a worker that is alive still serves: one HangWatch per worker, asked at every tick of the pool.
 *
 * A worker is well while it answers pings or answers requests on any of its links. Only time in which the manager
 * itself ran counts: a manager that was stopped, suspended or starved finds nobody guilty of its own absence.
 * Pure: it holds no timer, reads no clock and kills nobody; the pool acts on the verdict.
 */

/** How often the pool looks, in milliseconds: at each tick it calls `tick`, and after that sends one ping. */
export const TICK_INTERVAL_MS = 250;
/** Patience with a worker that has no links, and the default of a link. */
export const DEFAULT_PATIENCE_MS = 2000;
/** How long a request may wait for a source that answers later, as long as its worker answers pings. */
export const SLOW_SOURCE_MS = 30_000;
/** Where patience stops growing, unless it was set higher. */
export const MAX_PATIENCE_MS = 60_000;

/** A tick that comes later than this many intervals after the one before it says that the manager did not run. */
const LATE_TICKS = 2;
/** On-time ticks, hence pings, that a worker gets after the manager was away, before it can be found hung. */
const FRESH_TICKS = 4;
/** A patience below this many intervals cannot be told from a moment's delay, and is taken for this. */
const LEAST_PATIENCE_TICKS = 6;
/** A manager that never comes on time believes in a hang after this many pings without an answer, and this long. */
const UNHEARD_LATE_TICKS = 20;
const UNHEARD_LATE_MS = 30_000;

/** A link of the worker, as its journal and its socket show it. */
export interface WatchedLink {
  readonly link: number;
  /** Requests answered so far; may wrap, only a change counts. */
  readonly answered: number;
  /**
   * Whether requests wait for the worker: unread in the socket, or received and not answered. False for a link whose
   * socket is known to be dead: nothing can be answered there, which is nobody's hang.
   */
  readonly waiting: boolean;
  readonly patienceMs: number;
  /** Whether its source answers later, without holding up the worker meanwhile. */
  readonly asynchronous: boolean;
  /** Whether the worker is inside this link's code: then this link's patience decides, and it gets the blame. */
  readonly busy?: boolean;
}

export interface HangTick {
  /** A monotonic clock in milliseconds. */
  readonly nowMs: number;
  /** Answers to pings so far; may wrap, only a change counts. */
  readonly pongs: number;
  readonly links: readonly WatchedLink[];
}

export interface HangVerdict {
  /** The link that is to blame, as far as that can be known. */
  readonly link: number | undefined;
  /** Words for status and log. */
  readonly reason: string;
  /** How long nothing was heard, at most one interval too much; time in which the manager was away is not in it. */
  readonly silentMs: number;
}

export interface HangWatchOptions {
  readonly workerPid: number;
  /** When the worker said that it is ready: from then on it is expected to answer. */
  readonly nowMs: number;
  readonly intervalMs?: number;
}

/**
 * The patience for a link whose worker hung `hangs` times in a row without a single answered request in between:
 * doubled each time, so that a read that takes long is not begun anew for ever.
 */
export function grownPatience(baseMs: number, hangs: number): number {
  return Math.max(baseMs, Math.min(baseMs * 2 ** hangs, MAX_PATIENCE_MS));
}

/**
 * Times in here are of the watch's own clock, which stands still while the manager is away. What is seen at a tick
 * may have happened right after the tick before it; so it is dated back to that one, and a verdict falls while a
 * next tick, as late as it may be, would come after the patience. Thus a stop is noticed within the patience.
 */
export class HangWatch {
  readonly #workerPid: number;
  readonly #intervalMs: number;
  readonly #lateMs: number;
  #links = new Map<number, { answered: number; wellAt: number }>();
  #pongs: number | undefined;
  #ranMs = 0;
  #tickedAtMs: number;
  /** The last sign of life of any kind, and the last answered request of any link. */
  #heardAt = 0;
  #progressAt = 0;
  /** The last sign of life on the caller's clock. */
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

  /** Undefined while the worker serves; a verdict comes again at every tick for as long as nothing changes. */
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
    // Ticks that catch up with late ones leave the worker no time to answer in between.
    if (gap >= this.#intervalMs / 2) this.#ticksOnTime += 1;
  }

  /** Remembers what the links show; returns whether any has answered something. */
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

  /** The worker says nothing at all. */
  #silence(links: readonly WatchedLink[]): HangVerdict | undefined {
    const busy = links.filter((link) => link.busy);
    const deciding = busy.length > 0 ? busy : links;
    const patienceMs =
      deciding.length === 0 ? DEFAULT_PATIENCE_MS : Math.min(...deciding.map((link) => link.patienceMs));
    const late = this.#isUnheardByLateManager(patienceMs);
    if (!late && !this.#isOverdue(this.#heardAt, patienceMs)) return undefined;
    // A manager that is never on time has counted next to nothing: the caller's clock says more.
    const silentMs = late ? this.#tickedAtMs - this.#heardAtMs : this.#ranMs - this.#heardAt;
    const link = busy.length === 1 ? busy[0]?.link : undefined;
    const what = link === undefined ? "in an endless loop" : `stuck in a read of link ${link}`;
    const reason = `worker ${this.#workerPid} has not answered for ${seconds(silentMs)}: stopped, or ${what}`;
    return { link, silentMs, reason };
  }

  /** The worker answers pings, but on one of its links nothing moves though requests wait. */
  #standstill(links: readonly WatchedLink[]): HangVerdict | undefined {
    // One that says nothing may be inside a long read of another link, whose patience decides.
    if (this.#ranMs - this.#heardAt > 2 * this.#lateMs) return undefined;
    for (const { link, waiting, patienceMs, asynchronous } of links) {
      const wellAt = this.#links.get(link)?.wellAt;
      if (!waiting || wellAt === undefined) continue;
      // Where other links move, this one may just have its turn later: their reads may be slow, and many.
      const quiet = !asynchronous && this.#isOverdue(Math.max(wellAt, this.#progressAt), patienceMs);
      if (!quiet && !this.#isOverdue(wellAt, Math.max(SLOW_SOURCE_MS, patienceMs))) continue;
      const silentMs = this.#ranMs - wellAt;
      const how = `has answered nothing on link ${link} for ${seconds(silentMs)} though requests wait`;
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

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}
