/**
 * What becomes of the links of a worker that has died, and of the worker itself: the pool's policy against crash loops.
 *
 * A link that was being served when its worker died gets a strike. Few strikes cost nothing, many cost waiting, ever
 * longer; a while of good service forgives them all, and nothing is ever given up. Links without strikes never wait,
 * and are kept apart from those that kill workers where there are workers enough. Pure: time and chance are arguments.
 */

/** Deaths that cost a link no waiting. */
export const BUDGET = 3;
/** A strike wears off in this much good service, in milliseconds; after a little more, all of them are forgotten. */
export const STRIKE_LIFE_MS = 3500;
/** Good service that makes a link innocent again. */
export const PROBATION_MS = 5000;
export const MIN_DELAY_MS = 200;
export const MAX_DELAY_MS = 30_000;
/** A link that nobody was reading from is tried again soon: waiting costs its next reader more than trying costs us. */
export const MAX_IDLE_DELAY_MS = 2000;

/** Strikes of a link that was idle at a death: it may have been anything, a signal from outside above all. */
const IDLE_STRIKE = 0.5;
/** Deaths that nobody is to blame for until whoever was there is suspected. */
const UNEXPLAINED_LIMIT = 2;
/** Between two looks at a link no more than this counts as service: the manager may have been away. */
const MAX_LOOK_MS = 500;

/**
 * What a link has to do with the death of its worker: it was inside this link's code · it had no other link, so this
 * one is blamed for want of anybody else · it was inside another link's code · it was in nobody's code.
 */
export type Role = "busy" | "alone" | "bystander" | "unexplained";

/**
 * The role of one of the links that a dead worker had; `links` are all of them, this one among them. The link that a
 * hang verdict names is as good as busy.
 */
export function roleOf(link: { readonly busy: boolean }, links: readonly { readonly busy: boolean }[]): Role {
  if (link.busy) return "busy";
  if (links.length <= 1) return "alone";
  return links.some(({ busy }) => busy) ? "bystander" : "unexplained";
}

/** What is known of one death, from the journal of a link that the dead worker had. */
export interface LinkDeath {
  /** A monotonic clock in milliseconds. */
  readonly nowMs: number;
  readonly role: Role;
  /** No request of this link waited for an answer. */
  readonly idle: boolean;
  /** Requests answered so far; may wrap, only a change counts. */
  readonly answered: number;
  /** The worker was killed because it hung. */
  readonly hung: boolean;
  /** What happened, as words: «worker 4712 was killed by SIGABRT». */
  readonly reason: string;
}

/** A look at a link while a worker has it. */
export interface LinkService {
  readonly nowMs: number;
  readonly answered: number;
  /** Whether requests wait for an answer. */
  readonly waiting: boolean;
}

/** Which workers will do: any, or only those without innocent links. */
export type PlacementPolicy = "any" | "suspects-only";

export type LinkMove =
  | { readonly kind: "at-once"; readonly company: PlacementPolicy }
  | {
      readonly kind: "later";
      readonly delayMs: number;
      readonly company: "suspects-only";
      /** Words for status. */
      readonly reason: string;
    };

/** The criminal record of one link: keep one for as long as the link lives, through all its workers. */
export class LinkTrouble {
  #strikes = 0;
  #unexplained = 0;
  #hangs = 0;
  #goodMs = 0;
  /** Answered requests at the last death, and at the last look. */
  #answered = 0;
  #answeredAtLook = 0;
  #lookedAtMs: number | undefined;
  #attemptAtMs: number | undefined;
  #deaths = 0;
  #firstDeathMs = 0;
  #last: LinkDeath | undefined;

  /** How likely it is that this link kills workers: 0 is innocent; only the order of other numbers means something. */
  get suspicion(): number {
    return this.#strikes + (this.#unexplained < UNEXPLAINED_LIMIT ? 0 : this.#unexplained / 100);
  }

  /** Deaths of its workers that it was blamed for, less what good service has made up for. */
  get strikes(): number {
    return this.#strikes;
  }

  /** Hangs in a row without an answered request in between: the argument of `grownPatience`. */
  get hangsWithoutProgress(): number {
    return this.#hangs;
  }

  /** The worker that had this link has died. Ask `nextMove` after it. */
  died(death: LinkDeath): void {
    const progressed = this.#answered !== death.answered;
    this.#answered = death.answered;
    this.#goodMs = 0;
    this.#lookedAtMs = undefined;
    this.#attemptAtMs = undefined;
    // What kills a worker by itself does so before it answers anything new; what answers was killed by somebody else.
    if (progressed) {
      this.#strikes /= 2;
      this.#unexplained = 0;
      this.#hangs = 0;
    }
    if (death.role === "unexplained") this.#unexplained += 1;
    if (death.role !== "busy" && death.role !== "alone") return;
    if (death.hung && !death.idle) this.#hangs += 1;
    this.#strikes += death.idle && death.role === "alone" ? IDLE_STRIKE : 1;
    if (this.#deaths === 0) this.#firstDeathMs = death.nowMs;
    this.#deaths += 1;
    this.#last = death;
  }

  /** Where to now. The moment of the next attempt is drawn once for each death: asking again only shows it nearer. */
  nextMove(nowMs: number, random: () => number): LinkMove {
    if (this.#strikes <= BUDGET) return { kind: "at-once", company: "any" };
    this.#attemptAtMs ??= nowMs + this.#drawDelayMs(random);
    const delayMs = this.#attemptAtMs - nowMs;
    if (delayMs <= 0) return { kind: "at-once", company: "suspects-only" };
    return { kind: "later", delayMs, company: "suspects-only", reason: this.#describe(nowMs, delayMs) };
  }

  /** Why the link waits, in words; undefined while it does not. */
  stalledReason(nowMs: number): string | undefined {
    if (this.#attemptAtMs === undefined || this.#attemptAtMs <= nowMs) return undefined;
    return this.#describe(nowMs, this.#attemptAtMs - nowMs);
  }

  /** A worker has this link: call at every tick. Time counts as good while requests are answered or none waits. */
  served({ nowMs, answered, waiting }: LinkService): void {
    const sinceMs = this.#lookedAtMs === undefined ? 0 : nowMs - this.#lookedAtMs;
    const moves = this.#lookedAtMs !== undefined && this.#answeredAtLook !== answered;
    this.#lookedAtMs = nowMs;
    this.#answeredAtLook = answered;
    if (answered !== this.#answered) this.#hangs = 0;
    if (waiting && !moves) return;
    const goodMs = Math.min(Math.max(sinceMs, 0), MAX_LOOK_MS);
    this.#goodMs += goodMs;
    this.#strikes = Math.max(0, this.#strikes - goodMs / STRIKE_LIFE_MS);
    if (this.#goodMs < PROBATION_MS) return;
    this.#strikes = 0;
    this.#unexplained = 0;
    this.#deaths = 0;
    this.#last = undefined;
  }

  #drawDelayMs(random: () => number): number {
    const most = this.#last?.idle === true ? MAX_IDLE_DELAY_MS : MAX_DELAY_MS;
    return backoffMs(Math.ceil(this.#strikes) - BUDGET - 1, MIN_DELAY_MS, most, random);
  }

  #describe(nowMs: number, delayMs: number): string {
    const seconds = Math.max(1, Math.ceil((nowMs - this.#firstDeathMs) / 1000));
    const last = this.#last?.reason ?? "unknown";
    return `its workers die: ${this.#deaths} in the last ${seconds} s, last: ${last}; next attempt in ${inWords(delayMs)}`;
  }
}

/** A worker that could take a link. */
export interface Candidate {
  readonly links: number;
  readonly suspects: number;
  readonly innocents: number;
}

/**
 * The best of the ready workers for a link; undefined when none will do. Suspects are kept away from innocents where
 * that is possible, whoever they are; after that the fewest links decide. Only «suspects-only» refuses: it waits for
 * a fresh worker rather than endanger an innocent link.
 */
export function place<T extends Candidate>(
  candidates: readonly T[],
  link: { readonly isSuspect: boolean; readonly company: PlacementPolicy },
): T | undefined {
  const others = ({ suspects, innocents }: T): boolean => (link.isSuspect ? innocents : suspects) > 0;
  const allowed = link.company === "any" ? candidates : candidates.filter(({ innocents }) => innocents === 0);
  return [...allowed].sort((a, b) => Number(others(a)) - Number(others(b)) || a.links - b.links)[0];
}

/** A ready worker and its links, for `shouldMove`. */
export interface Occupied<W> {
  readonly worker: W;
  readonly links: readonly { readonly link: number; readonly suspicion: number }[];
}

export interface PlannedMove<W> {
  readonly link: number;
  readonly from: W;
  readonly to: W;
}

/**
 * Which links to hand over, now that a worker has become ready, so that suspects and innocents part. Suspects go
 * where no innocent is, spread out, or else innocents go where no suspect is. Where several suspects share a worker and another
 * one is empty, the worst of them goes there alone: whose worker dies then is known. Nothing moves a second time
 * unless something has died in between.
 */
export function shouldMove<W>(workers: readonly Occupied<W>[]): PlannedMove<W>[] {
  const split = workers.map(({ worker, links }) => ({
    worker,
    suspects: links.filter(({ suspicion }) => suspicion > 0).sort((a, b) => b.suspicion - a.suspicion),
    innocents: links.filter(({ suspicion }) => suspicion <= 0),
  }));
  type Split = (typeof split)[number];
  const size = ({ suspects, innocents }: Split): number => suspects.length + innocents.length;
  const mixed = split.filter(({ suspects, innocents }) => suspects.length > 0 && innocents.length > 0);
  const noInnocents = split.filter(({ innocents }) => innocents.length === 0);
  const noSuspects = split.filter(({ suspects }) => suspects.length === 0);
  if (mixed.length > 0) {
    const targets = noInnocents.length > 0 ? noInnocents : noSuspects;
    const places = targets.map((target) => ({ to: target.worker, taken: size(target) }));
    return mixed.flatMap(({ worker: from, suspects, innocents }) =>
      (targets === noInnocents ? suspects : innocents).flatMap(({ link }) => {
        const target = places.sort((a, b) => a.taken - b.taken)[0];
        if (target === undefined) return [];
        target.taken += 1;
        return [{ link, from, to: target.to }];
      }),
    );
  }
  const crowded = split.find(({ suspects }) => suspects.length > 1);
  const empty = noInnocents.find((candidate) => size(candidate) === 0);
  const worst = crowded?.suspects[0];
  if (crowded === undefined || worst === undefined || empty === undefined) return [];
  return [{ link: worst.link, from: crowded.worker, to: empty.worker }];
}

/** Useless workers that are replaced without waiting. */
export const RESTART_BUDGET = 3;
export const MAX_RESTART_DELAY_MS = 10_000;
/** A worker that lived this long did not die of its start. */
export const SHORT_LIFE_MS = 5000;
/** Silence after which a further early death begins a new story. */
const RESTART_QUIET_MS = 10_000;

export interface WorkerDeath {
  readonly nowMs: number;
  readonly livedMs: number;
  /** It has answered at least one request. */
  readonly served: boolean;
  /** One of its links is blamed for its death, and waits for it instead. */
  readonly blamedOnLink: boolean;
}

/** How long the pool waits before it starts another worker, when they die of themselves rather than of their links. */
export class RestartBackoff {
  #failures = 0;
  #failedAtMs = 0;
  #delayMs = 0;

  died({ nowMs, livedMs, served, blamedOnLink }: WorkerDeath): void {
    if (blamedOnLink) return;
    const isNewStory = nowMs - this.#failedAtMs > this.#delayMs + RESTART_QUIET_MS;
    if (isNewStory || served || livedMs >= SHORT_LIFE_MS) this.#failures = 0;
    this.#delayMs = 0;
    if (served || livedMs >= SHORT_LIFE_MS) return;
    this.#failures += 1;
    this.#failedAtMs = nowMs;
  }

  /** 0 is at once. Draw it once for each death or failure to start. */
  delayMs(random: () => number): number {
    const step = this.#failures - RESTART_BUDGET - 1;
    this.#delayMs = step < 0 ? 0 : backoffMs(step, MIN_DELAY_MS, MAX_RESTART_DELAY_MS, random);
    return this.#delayMs;
  }
}

/** Doubles with each step from `leastMs` up to `mostMs`; chance takes away up to half of it. */
function backoffMs(step: number, leastMs: number, mostMs: number, random: () => number): number {
  return Math.min(leastMs * 2 ** step, mostMs) * (0.5 + random() / 2);
}

function inWords(milliseconds: number): string {
  return milliseconds < 1000 ? `${Math.ceil(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
