/**
 * Gives links to workers: when they are opened, when their worker dies, and in an upgrade.
 *
 * Implements LinkServer for the supervisors. There are two workers, so that the links of a dead one can go at once to
 * a process that is warm. The second one is started when the first attach has been answered. worker-set.ts has the
 * processes, policy/ decides which worker takes a link and how long a link waits whose workers die repeatedly.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../errors.ts";
import type { LinkObserver, LinkRequest, LinkServer, OpenLink, Takeover } from "../supervisor/ports.ts";
import { withDeadline } from "../sys/deadline.ts";
import { type Renewal, renewWorkers, separateSuspects } from "./handover.ts";
import { type FoundLink, foundLink } from "./links/found-link.ts";
import type { HeldLink } from "./links/held-link.ts";
import { LinkMaker } from "./links/link-maker.ts";
import { type PlacementPolicy, place } from "./policy/placement.ts";
import { entangledWith } from "./policy/stacking.ts";
import type { ReconnectedWorker } from "./reattach.ts";
import { handleDeath } from "./worker-death.ts";
import type { WorkerProcess } from "./worker-process.ts";
import { WorkerSet, type WorkerSetOptions } from "./worker-set.ts";

export type { Renewal } from "./handover.ts";

export interface PoolEvents {
  log(level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>): void;
}

export interface PoolOptions extends WorkerSetOptions {
  /** Directory of the links' journals. */
  readonly journals: string;
}

/** The pool at one moment, for `status` and metrics. */
export interface PoolCensus {
  readonly workers: ReadonlyArray<{
    readonly pid: number;
    readonly isReady: boolean;
    readonly links: number;
  }>;
  /** See RequestAges. */
  readonly oldestRequestMs: number;
  /** Sum over all links; see CrashRecord. */
  readonly strikes: number;
  /** Workers that exited by themselves, and those that were killed because they hung, since this manager started. */
  readonly exits: { readonly died: number; readonly hung: number };
}

/** How long a device with several links waits for a second worker to start. */
const SPREAD_TIMEOUT_MS = 3000;
/** Delay before a link is offered again to a worker that did not take it. */
const RETRY_MS = 5;
/** The same if the worker has given a reason: a source that cannot be opened will not open a moment later. */
const REFUSED_RETRY_MS = 500;
/** A takeover that waits longer than this for a worker is reported as a stall. */
const LATE_MS = 5000;

export class WorkerPool implements LinkServer {
  readonly #maker: LinkMaker;
  readonly #events: PoolEvents;
  readonly #workers: WorkerSet;
  /** All open links, with or without a worker. */
  readonly #links = new Set<HeldLink>();
  readonly #exits = { died: 0, hung: 0 };
  #nextLink = 1;

  constructor(options: PoolOptions, events: PoolEvents) {
    this.#maker = new LinkMaker(options.journals);
    this.#events = events;
    this.#workers = new WorkerSet(options, {
      log: events.log,
      available: () =>
        separateSuspects(this.#workers.ready, this.#links, (error) =>
          this.#events.log("error", String(error)),
        ),
      exited: (worker, how) => {
        this.#exits[worker.hung ? "hung" : "died"] += 1;
        return handleDeath(worker, how);
      },
    });
  }

  /** Starts workers until there are enough, and returns at once; `openLink` waits for them. */
  fill(): void {
    this.#workers.fill();
  }

  /** Starts the first worker; the others follow with `fill`. */
  begin(): void {
    this.#workers.begin();
  }

  get pids(): number[] {
    return this.#workers.all.map((worker) => worker.pid);
  }

  census(nowMs: number): PoolCensus {
    const workers = this.#workers.all.map(({ pid, isReady, links }) => ({ pid, isReady, links: links.size }));
    let oldestRequestMs = 0;
    let strikes = 0;
    for (const link of this.#links) {
      link.noteAges(nowMs);
      oldestRequestMs = Math.max(oldestRequestMs, link.oldestAgeMs(nowMs));
      strikes += link.crashes.strikes;
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
    const former = [...this.#links].find(({ number }) => number === request.former?.number);
    const link = this.#maker.make(this.#nextLink++, request, observer, former);
    // Why a worker has refused it, also while another is asked.
    let refusal: string | undefined;
    try {
      for (;;) {
        const worker = await this.#workerFor(link, "any", signal);
        if (await this.#serve(worker, link, signal)) return this.#add(link);
        // A worker that is asked when the time is over says no more than that.
        refusal = signal.aborted ? (refusal ?? link.refusal) : (link.refusal ?? refusal);
        if (link.hasEnded) throw new ErofsNbdError("ERR_WORKER", "cannot serve a link: it ended at once");
        if (signal.aborted && refusal === undefined)
          throw new ErofsNbdError("ERR_WORKER", "cannot serve a link: no worker took it in time");
        await sleep(retryDelayMs(link), undefined, { signal });
      }
    } catch (error) {
      link.worker?.links.close(link);
      this.#maker.giveUp(link);
      if (refusal === undefined || error instanceof ErofsNbdError) throw error;
      throw new ErofsNbdError("ERR_WORKER", `cannot serve a link: ${refusal}`, { cause: error });
    }
  }

  /** Goes on with a worker of a former manager, and returns the links that it serves. */
  adopt(reconnected: ReconnectedWorker): FoundLink[] {
    const { pid, links } = reconnected;
    const worker = this.#workers.reattach(reconnected);
    this.#events.log("info", `Reattached worker ${pid}`, { workerPid: pid, links: links.length });
    return links.map((report) => {
      this.#nextLink = Math.max(this.#nextLink, report.description.link + 1);
      return foundLink(worker, report, (link) => this.#add(link));
    });
  }

  /** See `renewWorkers`. @throws ErofsNbdError ERR_WORKER; ERR_CONTROL while another renewal runs */
  async renew(): Promise<Renewal> {
    if (this.#workers.keepAll)
      throw new ErofsNbdError("ERR_CONTROL", "cannot replace the workers: they are being replaced already");
    this.#workers.keepAll = true;
    try {
      return await renewWorkers(this.#workers, this.#links);
    } finally {
      this.#workers.keepAll = false;
    }
  }

  /** Has the workers exit after their last link. */
  stop(): void {
    this.#maker.discardSpares();
    this.#workers.end((worker) => worker.stop());
  }

  /** Leaves the workers running for the next manager. */
  leave(): void {
    this.#maker.discardSpares();
    this.#workers.end((worker) => worker.leave());
  }

  /** Enters a link into the pool, and returns the supervisor's view of it. */
  #add(link: HeldLink): OpenLink {
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
      confirm: () => link.confirm(),
      takeOver: (signal, waiting) => this.#takeOver(link, signal, waiting),
      addLatenciesTo: (total) => link.addLatenciesTo(total),
      close: () => {
        link.worker?.links.close(link);
        link.close();
        this.#links.delete(link);
      },
    };
  }

  /** Settles the journal that a dead worker left, and gives the link to another worker. Retries without limit. */
  async #takeOver(link: HeldLink, signal: AbortSignal, waiting: (why: string) => void): Promise<Takeover> {
    for (;;) {
      const settlement = await link.settle();
      if (!settlement.safe) return settlement;
      const next = link.crashes.nextAttempt(performance.now(), Math.random);
      if (next.kind === "later") {
        waiting(next.reason);
        await sleep(next.delayMs, undefined, { signal });
        continue;
      }
      const late = setTimeout(() => waiting(`no worker is ready: ${this.#workers.lastDeath}`), LATE_MS);
      const worker = await this.#workerFor(link, next.placement, signal).finally(() => clearTimeout(late));
      if (await this.#serve(worker, link)) return { safe: true, unanswered: settlement.unanswered };
      if (link.refusal !== undefined) waiting(`a worker does not take the link: ${link.refusal}`);
      // The worker is dead, or lacks resources. A retry at once would starve the event loop.
      await sleep(retryDelayMs(link), undefined, { signal });
    }
  }

  /** False when the worker does not take it: another may. */
  async #serve(worker: WorkerProcess, link: HeldLink, signal?: AbortSignal): Promise<boolean> {
    // Another link, which waits for this one, may have gone to the same worker since it was chosen.
    if (worker.links.all.some(entangledWith(link, this.#links))) return false;
    return worker.links.serve(link, signal);
  }

  /** Waits for a worker without links, if one is starting. */
  #idleWorker(signal: AbortSignal): Promise<void> {
    const isStarting = (worker: WorkerProcess): boolean => worker.links.size === 0 && !worker.isReady;
    return withDeadline(SPREAD_TIMEOUT_MS, signal, async (bounded) => {
      while (!bounded.aborted && this.#workers.all.some(isStarting)) await this.#workers.changed(bounded);
    });
  }

  /**
   * The best worker for a link, as soon as there is one. A timeout signal does not end the wait while a worker is
   * starting, which may take longer on a busy machine. @throws ErofsNbdError ERR_WORKER when the signal aborts
   */
  async #workerFor(link: HeldLink, placement: PlacementPolicy, signal: AbortSignal): Promise<WorkerProcess> {
    for (;;) {
      const isEntangled = entangledWith(link, this.#links);
      const candidates = this.#workers.ready.map((worker) => {
        const others = worker.links.all.filter((other) => other !== link);
        const suspects = others.filter(({ crashes }) => crashes.suspicion > 0).length;
        const isolated = others.filter(({ crashes }) => crashes.mustBeAlone).length;
        const { isSilent } = worker;
        return {
          worker,
          links: others.length,
          suspects,
          innocents: others.length - suspects,
          isolated,
          isSilent,
          isEntangled: others.some(isEntangled),
        };
      });
      const best = place(candidates, { isSuspect: link.crashes.suspicion > 0, placement });
      if (best !== undefined) return best.worker;
      const waitsForStart = signal.aborted && isTimeout(signal) && this.#workers.isStarting;
      if ((signal.aborted && !waitsForStart) || this.#workers.isStopped) {
        throw new ErofsNbdError("ERR_WORKER", `cannot get a worker that serves: ${this.#workers.lastDeath}`, {
          hint: "the manager's log has what the workers wrote before they exited",
        });
      }
      if (!waitsForStart) this.#workers.want(candidates.length > 0);
      await this.#workers.changed(waitsForStart ? new AbortController().signal : signal);
    }
  }
}

function retryDelayMs({ refusal }: HeldLink): number {
  return refusal === undefined ? RETRY_MS : REFUSED_RETRY_MS;
}

/** Whether a signal was aborted by a timeout, and not because its owner has ended. */
function isTimeout({ reason }: AbortSignal): boolean {
  return reason instanceof DOMException && reason.name === "TimeoutError";
}
