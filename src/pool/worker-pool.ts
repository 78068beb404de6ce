/**
 * Where links go: to a worker when they are opened, to another when theirs dies, to fresh ones in an upgrade.
 *
 * Implements LinkServer for the supervisors. There are two workers, so that the links of a dead one have somewhere to
 * go at once, to a process that is warm; the second is started when the first attach has been answered. Which one a
 * link goes to, and how long one waits whose workers die again and again, is judged in blame.ts; the processes
 * themselves are worker-set.ts.
 */
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../errors.ts";
import type { LinkObserver, LinkRequest, LinkServer, OpenLink, Takeover } from "../supervisor/ports.ts";
import { withDeadline } from "../sys/deadline.ts";
import { type PlacementPolicy, place, roleOf, shouldMove } from "./blame.ts";
import { describeFound, type PooledFoundLink } from "./found-link.ts";
import { closeKernelEnd, createLink, type HeldLink } from "./held-link.ts";
import type { ReconnectedWorker } from "./reattach.ts";
import type { WorkerProcess } from "./worker-process.ts";
import { WorkerSet, type WorkerSetOptions } from "./worker-set.ts";

export interface PoolEvents {
  log(level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>): void;
}

export interface PoolOptions extends WorkerSetOptions {
  /** Where links' journals are. */
  readonly journals: string;
}

/** What an upgrade has done. */
export interface Renewal {
  readonly workers: number;
  readonly links: number;
  readonly longestStallMs: number;
}

/** What can be told of a pool at one moment. */
export interface PoolCensus {
  readonly workers: ReadonlyArray<{
    readonly pid: number;
    readonly isReady: boolean;
    readonly links: number;
  }>;
  /** See RequestAges. */
  readonly oldestRequestMs: number;
  /** Of all links together; see LinkTrouble. */
  readonly strikes: number;
  /** Workers that ended unasked, and those that were ended because they hung, in this manager's life. */
  readonly exits: { readonly died: number; readonly hung: number };
}

/** How long a device with several links waits for a second worker to start. */
const SPREAD_PATIENCE_MS = 3000;
/** Before a link is offered again that a worker did not take. */
const AGAIN_MS = 5;
/** The same, where the worker has said why: a source that does not open will not do so a moment later. */
const REFUSED_AGAIN_MS = 500;
/** Of a dead worker's quiet links, between two turns of the event loop. */
const TOLD_AT_ONCE = 8;
/** A takeover that waits longer than this for a worker is a stall, and told as one. */
const LATE_MS = 5000;

export class WorkerPool implements LinkServer {
  readonly #journals: string;
  readonly #events: PoolEvents;
  readonly #workers: WorkerSet;
  /** All that are open, with a worker or without. */
  readonly #links = new Set<HeldLink>();
  readonly #exits = { died: 0, hung: 0 };
  #nextLink = 1;

  constructor(options: PoolOptions, events: PoolEvents) {
    this.#journals = options.journals;
    this.#events = events;
    this.#workers = new WorkerSet(options, {
      log: events.log,
      ready: () => this.#separate(),
      exited: (worker, how) => this.#exited(worker, how),
    });
  }

  /** Starts workers until there are enough. They get ready in their own time; `openLink` waits for them. */
  fill(): void {
    this.#workers.fill();
  }

  /** Starts the first of them; the others follow with `fill`. */
  begin(): void {
    this.#workers.begin();
  }

  get pids(): number[] {
    return this.#workers.all.map((worker) => worker.pid);
  }

  /** The workers and their links as they are now, for whoever watches. */
  census(nowMs: number): PoolCensus {
    const workers = this.#workers.all.map(({ pid, isReady, links }) => ({ pid, isReady, links: links.size }));
    let oldestRequestMs = 0;
    let strikes = 0;
    for (const link of this.#links) {
      link.noteAges(nowMs);
      oldestRequestMs = Math.max(oldestRequestMs, link.oldestAgeMs(nowMs));
      strikes += link.trouble.strikes;
    }
    return { workers, oldestRequestMs, strikes, exits: { ...this.#exits } };
  }

  /** See WorkerSet. */
  get unwatchedMs(): number {
    return this.#workers.unwatchedMs;
  }

  /** See WorkerSet. */
  get isStarting(): boolean {
    return this.#workers.isStarting;
  }

  async openLink(request: LinkRequest, observer: LinkObserver, signal: AbortSignal): Promise<OpenLink> {
    if (request.spread) {
      this.#workers.fill();
      await this.#idleWorker(signal);
    }
    const link = createLink(this.#nextLink++, request, observer, this.#journals);
    try {
      for (;;) {
        const worker = await this.#workerFor(link, "any", signal);
        if (await worker.serve(link)) return this.#handle(link);
        if (link.hasEnded)
          throw new ErofsNbdError("ERR_WORKER", "cannot get a link served: it ended at once");
        await sleep(pauseAfter(link), undefined, { signal });
      }
    } catch (error) {
      link.close();
      closeKernelEnd(link);
      if (link.refusal === undefined || error instanceof ErofsNbdError) throw error;
      throw new ErofsNbdError("ERR_WORKER", `cannot get a link served: ${link.refusal}`, { cause: error });
    }
  }

  /** Makes a worker of a former manager one of ours, and returns what it serves. */
  adopt(acquaintance: ReconnectedWorker): PooledFoundLink[] {
    const { pid, links } = acquaintance;
    const worker = this.#workers.meet(acquaintance);
    this.#events.log("info", `Met worker ${pid} again`, { workerPid: pid, links: links.length });
    return links.map((told) => {
      this.#nextLink = Math.max(this.#nextLink, told.description.link + 1);
      return describeFound(worker, told, (link) => this.#handle(link));
    });
  }

  /**
   * Replaces every worker by a fresh one of the installed program: links are handed over one by one, reads wait for
   * milliseconds. When fresh ones do not get ready in time the old ones stay. @throws ErofsNbdError ERR_WORKER
   */
  async renew(): Promise<Renewal> {
    if (this.#workers.keepAll)
      throw new ErofsNbdError("ERR_CONTROL", "cannot replace the workers: they are being replaced already");
    this.#workers.keepAll = true;
    try {
      return await this.#renew();
    } finally {
      this.#workers.keepAll = false;
    }
  }

  /** Tells the workers to leave when their last link has ended. */
  stop(): void {
    this.#workers.end((worker) => worker.stop());
  }

  /** Leaves the workers as they are, for the next manager. */
  leave(): void {
    this.#workers.end((worker) => worker.leave());
  }

  #handle(link: HeldLink): OpenLink {
    this.#links.add(link);
    return {
      number: link.number,
      kernelFd: link.kernelFd,
      get workerPid() {
        return link.workerPid;
      },
      get counters() {
        return link.counters;
      },
      get isQuiet() {
        return link.isQuiet;
      },
      get isUsed() {
        return link.isUsed;
      },
      get exactness() {
        return link.lease.exactness;
      },
      confirm: () => {
        link.confirmed = true;
        link.worker?.confirm(link.number);
      },
      takeOver: (signal, waiting) => this.#takeOver(link, signal, waiting),
      addLatenciesTo: (total) => link.addLatenciesTo(total),
      close: () => {
        link.worker?.close(link);
        link.close();
        this.#links.delete(link);
      },
    };
  }

  /** Settles what the dead worker left, and gives the link to another one, however many attempts it takes. */
  async #takeOver(link: HeldLink, signal: AbortSignal, waiting: (why: string) => void): Promise<Takeover> {
    for (;;) {
      const settlement = await link.settle();
      if (!settlement.safe) return settlement;
      const move = link.trouble.nextMove(performance.now(), Math.random);
      if (move.kind === "later") {
        waiting(move.reason);
        await sleep(move.delayMs, undefined, { signal });
        continue;
      }
      const late = setTimeout(() => waiting(`no worker is ready: ${this.#workers.lastDeath}`), LATE_MS);
      const worker = await this.#workerFor(link, move.company, signal).finally(() => clearTimeout(late));
      if (await worker.serve(link)) return { safe: true, unanswered: settlement.unanswered };
      if (link.refusal !== undefined) waiting(`a worker does not take the link: ${link.refusal}`);
      // Dead, or without means: not at once again, or nothing else would have its turn.
      await sleep(pauseAfter(link), undefined, { signal });
    }
  }

  /** Hands a link from one living worker to another. Returns for how long reads stood still; undefined: it was not handed over. */
  async #move(link: HeldLink, to: WorkerProcess): Promise<number | undefined> {
    const from = link.worker;
    if (from === undefined || from === to || link.isMoving || from.isAskedAbout(link)) return undefined;
    link.isMoving = true;
    const startedAt = performance.now();
    try {
      const released = await from.release(link);
      if (link.hasEnded || !link.isOpen) return undefined;
      const settlement = released ? await link.settle() : undefined;
      if (settlement?.safe === true && link.isOpen && (await to.serve(link))) {
        const stallMs = Math.round((performance.now() - startedAt) * 10) / 10;
        link.observer.moved(to.pid, stallMs);
        return stallMs;
      }
      const cause = `worker ${from.pid} could not hand its link to worker ${to.pid}`;
      if (link.isOpen && !link.hasEnded) link.observer.orphaned(cause, performance.now() - startedAt);
      return undefined;
    } finally {
      link.isMoving = false;
    }
  }

  async #renew(): Promise<Renewal> {
    const old = this.#workers.all;
    const fresh = await this.#workers.startFresh().catch((error: Error) => {
      throw new ErofsNbdError("ERR_WORKER", `cannot replace the workers: ${error.message}`, {
        hint: "the old ones serve on; the manager's log holds what the new ones said",
      });
    });
    let longestStallMs = 0;
    let links = 0;
    for (const worker of old) {
      for (const link of [...worker.links.values()]) {
        const [to] = fresh.filter((one) => one.isReady).sort((a, b) => a.links.size - b.links.size);
        if (to === undefined) break;
        longestStallMs = Math.max(longestStallMs, (await this.#move(link, to)) ?? 0);
        links += 1;
      }
      if (worker.links.size === 0) this.#workers.dismiss(worker);
    }
    return { workers: fresh.length, links, longestStallMs };
  }

  /** Parts links that kill workers from those that do not, now that there is room. */
  #separate(): void {
    const occupied = this.#workers.ready.map((worker) => ({
      worker,
      links: [...worker.links.values()].map(({ number, trouble }) => ({
        link: number,
        suspicion: trouble.suspicion,
      })),
    }));
    for (const { link, from, to } of shouldMove(occupied)) {
      const held = from.links.get(link);
      if (held !== undefined)
        void this.#move(held, to).catch((error: unknown) => this.#events.log("error", String(error)));
    }
  }

  /** Tells every link of a dead worker. Returns whether one of them is to blame. */
  #exited(worker: WorkerProcess, how: string): boolean {
    this.#exits[worker.hung ? "hung" : "died"] += 1;
    const nowMs = performance.now();
    // Those that reads wait on come first: there may be hundreds, most of which nobody would miss for a while.
    const seen = [...worker.links.values()]
      .map((link) => ({ link, busy: link.isBusy, waiting: link.isWaiting }))
      .sort((a, b) => Number(b.waiting) - Number(a.waiting));
    const roles = seen.map((one) => roleOf(one, seen));
    seen.forEach(({ link, waiting }, at) => {
      const role = roles[at] ?? "unexplained";
      const answered = link.counters.requests;
      link.trouble.died({ nowMs, role, idle: !waiting, answered, hung: worker.hung, reason: how });
    });
    const lost = seen.filter(({ link }) => !link.isMoving && link.workerPid === worker.pid);
    for (const { link } of seen) {
      worker.links.delete(link.number);
      if (link.worker === worker) link.worker = undefined;
    }
    for (const { link, waiting } of lost)
      if (waiting) link.observer.orphaned(how, worker.silentMs, worker.hung);
    void this.#tellQuiet(
      lost.filter(({ waiting }) => !waiting).map(({ link }) => link),
      (link) => link.observer.orphaned(how, worker.silentMs, worker.hung),
    );
    return roles.some((role) => role === "busy" || role === "alone");
  }

  /** Tells links that nobody waits on, a few at a time: what comes in for the others is not to wait for all of them. */
  async #tellQuiet(links: readonly HeldLink[], tell: (link: HeldLink) => void): Promise<void> {
    for (const [at, link] of links.entries()) {
      if (at % TOLD_AT_ONCE === 0) await nextTurn();
      if (link.isOpen && !link.hasEnded && link.worker === undefined) tell(link);
    }
  }

  /** Waits a while for a worker without links, where one is just starting. */
  #idleWorker(signal: AbortSignal): Promise<void> {
    const isStarting = (worker: WorkerProcess): boolean => worker.links.size === 0 && !worker.isReady;
    return withDeadline(SPREAD_PATIENCE_MS, signal, async (patience) => {
      while (!patience.aborted && this.#workers.all.some(isStarting)) await this.#workers.changed(patience);
    });
  }

  /**
   * The best worker for a link, as soon as there is one. A deadline does not end the waiting while a worker is on its
   * way: on a busy machine its start may take longer than that. @throws ErofsNbdError ERR_WORKER when the signal
   * comes first
   */
  async #workerFor(link: HeldLink, company: PlacementPolicy, signal: AbortSignal): Promise<WorkerProcess> {
    for (;;) {
      const candidates = this.#workers.ready.map((worker) => {
        const others = [...worker.links.values()].filter((other) => other !== link);
        const suspects = others.filter(({ trouble }) => trouble.suspicion > 0).length;
        return { worker, links: others.length, suspects, innocents: others.length - suspects };
      });
      const best = place(candidates, { isSuspect: link.trouble.suspicion > 0, company });
      if (best !== undefined) return best.worker;
      const isOverdue = signal.aborted && isDeadline(signal);
      const waitsOn = isOverdue && this.#workers.isStarting;
      if ((signal.aborted && !waitsOn) || this.#workers.isStopped) {
        throw new ErofsNbdError("ERR_WORKER", `cannot get a worker that serves: ${this.#workers.lastDeath}`, {
          hint: "the manager's log holds what the workers said when they ended",
        });
      }
      if (!waitsOn) this.#workers.want(candidates.length > 0);
      await this.#workers.changed(waitsOn ? new AbortController().signal : signal);
    }
  }
}

function pauseAfter({ refusal }: HeldLink): number {
  return refusal === undefined ? AGAIN_MS : REFUSED_AGAIN_MS;
}

/** Whether a signal was aborted by a time and not by the end of what it belongs to. */
function isDeadline({ reason }: AbortSignal): boolean {
  return reason instanceof DOMException && reason.name === "TimeoutError";
}
