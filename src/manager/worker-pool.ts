/**
 * The workers of one manager: started ahead of need, given links, watched, replaced when they die or hang.
 *
 * Implements LinkServer for the supervisors. There are always two, so that the links of a dead one have somewhere
 * to go at once, to a process that is warm. Where a link goes, how long one waits whose workers die again and again,
 * and who hangs, is judged in crash-loop.ts and hang-watch.ts; this file carries it out.
 */
import { readlinkSync, rmSync } from "node:fs";
import { getPriority, setPriority } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../errors.ts";
import { withDeadline } from "../supervisor/deadline.ts";
import type {
  FoundLink,
  LinkObserver,
  LinkRequest,
  LinkServer,
  OpenLink,
  Takeover,
} from "../supervisor/ports.ts";
import { ERRNO, SystemError } from "../sys/errno.ts";
import { close } from "../sys/libc.ts";
import { type Company, place, RestartBackoff, roleOf, shouldMove } from "./crash-loop.ts";
import { grownPatience, HangWatch, TICK_INTERVAL_MS } from "./hang-watch.ts";
import { closeKernelEnd, createLink, HeldLink } from "./held-link.ts";
import type { Acquaintance, ToldLink } from "./reunion.ts";
import {
  meetWorker,
  startWorker,
  type WorkerEvents,
  type WorkerOptions,
  type WorkerProcess,
} from "./worker-process.ts";

export interface PoolEvents {
  log(level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>): void;
}

export interface PoolOptions extends WorkerOptions {
  readonly size: number;
  /** Where links' journals are. */
  readonly journals: string;
}

/** A link of a former manager's worker. */
export interface PooledFoundLink extends FoundLink {
  /** The device's identifier. */
  readonly device: string;
  /** Belongs to whoever has the device. */
  readonly imageFd: number;
  readonly journalPath: string;
  /** Closes our descriptors of it, the image's too; its worker serves it on. */
  leave(): void;
  /** The same, and the worker lets go of it: nobody uses it. */
  close(): void;
}

/** What an upgrade has done. */
export interface Renewal {
  readonly workers: number;
  readonly links: number;
  readonly longestStallMs: number;
}

type LinkFds = [number, number, number, number, number, number];

/** How long a device with several links waits for a second worker to start. */
const SPREAD_PATIENCE_MS = 3000;
/** A successor is started when the reads that waited have been served, unless there is nobody to serve them. */
const CALM_MS = 100;
/** Before a link is offered again that a worker did not take. */
const AGAIN_MS = 5;
/** Before the manager gives itself another one (daemon.ts). */
const OWN_NICENESS = getPriority();
/** A worker that is not ready by then will not be. */
const START_PATIENCE_MS = 30_000;

export class WorkerPool implements LinkServer {
  readonly #options: PoolOptions;
  readonly #events: PoolEvents;
  readonly #workers = new Map<WorkerProcess, HangWatch | undefined>();
  readonly #waiting = new Set<() => void>();
  readonly #backoff = new RestartBackoff();
  readonly #ticker: NodeJS.Timeout;
  #nextLink = 1;
  #lastDeath = "none has started yet";
  #restart: NodeJS.Timeout | undefined;
  #isRenewing = false;
  #stopped = false;

  constructor(options: PoolOptions, events: PoolEvents) {
    this.#options = options;
    this.#events = events;
    this.#ticker = setInterval(() => this.#tick(), TICK_INTERVAL_MS).unref();
  }

  /** Starts workers until there are enough. They get ready in their own time; `openLink` waits for them. */
  fill(): void {
    try {
      while (!this.#stopped && this.#workers.size < this.#options.size) this.#start();
    } catch (error) {
      // No descriptors or no memory for another process: that may pass.
      this.#lastDeath = `A worker could not be started: ${error instanceof Error ? error.message : error}`;
      this.#events.log("error", this.#lastDeath);
      this.#backoff.died({ nowMs: performance.now(), livedMs: 0, served: false, blamedOnLink: false });
      this.#startLater(Math.max(this.#backoff.delayMs(Math.random), TICK_INTERVAL_MS));
    }
  }

  get pids(): number[] {
    return [...this.#workers.keys()].map((worker) => worker.pid);
  }

  async openLink(request: LinkRequest, observer: LinkObserver, signal: AbortSignal): Promise<OpenLink> {
    if (request.spread) await this.#idleWorker(signal);
    const link = createLink(this.#nextLink++, request, observer, this.#options.journals);
    try {
      for (;;) {
        const worker = await this.#workerFor(link, "any", signal);
        if (await worker.serve(link)) return this.#handle(link);
        if (link.hasEnded)
          throw new ErofsNbdError("ERR_WORKER", "Cannot get a link served: it ended at once");
        await sleep(AGAIN_MS, undefined, { signal });
      }
    } catch (error) {
      link.close();
      closeKernelEnd(link);
      throw error;
    }
  }

  /**
   * Makes a worker of a former manager one of ours. Returns its links, by device; whoever opens one has it, the others'
   * descriptors are to be closed.
   */
  adopt(acquaintance: Acquaintance): PooledFoundLink[] {
    const { pid, channelFd, socketPath, links } = acquaintance;
    const worker = this.#meet(pid, channelFd, socketPath);
    this.#events.log("info", `Met worker ${pid} again`, { workerPid: pid, links: links.length });
    return links.map((told) => this.#found(pid, worker, told));
  }

  /** Undefined when it has died since it spoke. */
  #meet(pid: number, channelFd: number, socketPath: string): WorkerProcess | undefined {
    try {
      const worker: WorkerProcess = meetWorker(
        pid,
        channelFd,
        socketPath,
        this.#options,
        this.#workerEvents(() => worker),
      );
      this.#workers.set(worker, undefined);
      return worker;
    } catch (error) {
      if (!(error instanceof SystemError && error.errno === ERRNO.ESRCH)) throw error;
      close(channelFd);
      rmSync(socketPath, { force: true });
      return undefined;
    }
  }

  #found(pid: number, worker: WorkerProcess | undefined, { description, fds }: ToldLink): PooledFoundLink {
    const { link: number, device, slot, copyOnly } = description;
    this.#nextLink = Math.max(this.#nextLink, number + 1);
    const [serverFd, imageFd, journalFd, readFd, writeFd, kernelFd] = fds as LinkFds;
    return {
      device,
      slot,
      copyOnly,
      imageFd,
      journalPath: pathOf(journalFd),
      open: (request, observer) => {
        const ends = { serverFd, kernelFd, journalFd, pipe: [readFd, writeFd] as const };
        const link = new HeldLink(number, request, observer, ends, pathOf(journalFd));
        link.workerPid = pid;
        if (worker?.isAlive === true) worker.adopt(link);
        else setImmediate(() => observer.orphaned(`worker ${pid} ended while nobody was its manager`, 0));
        return this.#handle(link);
      },
      leave: () => {
        for (const fd of fds) close(fd);
      },
      close: () => {
        for (const fd of fds) close(fd);
        worker?.giveUp(number);
      },
    };
  }

  /**
   * Replaces every worker by a fresh one of the installed program: links are handed over one by one, reads wait for
   * milliseconds. When fresh ones do not get ready in time the old ones stay. @throws ErofsNbdError ERR_WORKER
   */
  async renew(): Promise<Renewal> {
    if (this.#isRenewing)
      throw new ErofsNbdError("ERR_CONTROL", "Cannot replace the workers: they are being replaced already");
    this.#isRenewing = true;
    try {
      return await this.#renew();
    } finally {
      this.#isRenewing = false;
    }
  }

  async #renew(): Promise<Renewal> {
    const old = [...this.#workers.keys()];
    const fresh: WorkerProcess[] = [];
    try {
      for (let count = 0; count < this.#options.size; count += 1) fresh.push(this.#start());
      await withDeadline(START_PATIENCE_MS, new AbortController().signal, async (patience) => {
        while (fresh.some((worker) => worker.isAlive && !worker.isReady) && !patience.aborted)
          await this.#changed(patience);
      });
      if (!fresh.every((worker) => worker.isReady)) {
        throw new ErofsNbdError("ERR_WORKER", `Cannot replace the workers: ${this.#lastDeath}`, {
          hint: "the old ones serve on; the manager's log holds what the new ones said",
        });
      }
    } catch (error) {
      for (const worker of fresh) this.#dismiss(worker);
      throw error;
    }
    let longestMs = 0;
    let links = 0;
    for (const worker of old) {
      for (const link of [...worker.links.values()]) {
        const [to] = fresh.filter((one) => one.isReady).sort((a, b) => a.links.size - b.links.size);
        if (to === undefined) break;
        longestMs = Math.max(longestMs, (await this.#move(link, to)) ?? 0);
        links += 1;
      }
      if (worker.links.size === 0) this.#dismiss(worker);
    }
    return { workers: fresh.length, links, longestStallMs: longestMs };
  }

  /** A worker that is not needed any more. */
  #dismiss(worker: WorkerProcess): void {
    this.#workers.delete(worker);
    worker.stop();
  }

  /** Tells the workers to leave when their last link has ended. */
  stop(): void {
    this.#end((worker) => worker.stop());
  }

  /** Leaves the workers as they are, for the next manager. */
  leave(): void {
    this.#end((worker) => worker.leave());
  }

  #end(letGo: (worker: WorkerProcess) => void): void {
    this.#stopped = true;
    clearInterval(this.#ticker);
    clearTimeout(this.#restart);
    for (const worker of this.#workers.keys()) letGo(worker);
    this.#wake();
  }

  #handle(link: HeldLink): OpenLink {
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
      takeOver: (signal, waiting) => this.#takeOver(link, signal, waiting),
      close: () => {
        link.worker?.close(link);
        link.close();
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
      const worker = await this.#workerFor(link, move.company, signal);
      if (await worker.serve(link)) return { safe: true, unanswered: settlement.unanswered };
      // Dead, or without means: not at once again, or nothing else would have its turn.
      await sleep(AGAIN_MS, undefined, { signal });
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

  #start(): WorkerProcess {
    const worker = startWorker(
      this.#options,
      this.#workerEvents(() => worker),
    );
    this.#workers.set(worker, undefined);
    likeAnybody(worker.pid);
    this.#events.log("info", `Started worker ${worker.pid}`, { workerPid: worker.pid });
    return worker;
  }

  #workerEvents(worker: () => WorkerProcess): WorkerEvents {
    return {
      ready: () => this.#isReady(worker()),
      exited: (how) => this.#exited(worker(), how),
    };
  }

  #isReady(worker: WorkerProcess): void {
    this.#workers.set(worker, new HangWatch({ workerPid: worker.pid, nowMs: performance.now() }));
    this.#wake();
    this.#separate();
  }

  /** Parts links that kill workers from those that do not, now that there is room. */
  #separate(): void {
    const occupied = [...this.#ready].map((worker) => ({
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

  #exited(worker: WorkerProcess, how: string): void {
    if (!this.#workers.has(worker)) return;
    const links = [...worker.links.values()];
    this.#workers.delete(worker);
    this.#lastDeath = how;
    const nowMs = performance.now();
    let blamed = false;
    const roles = links.map((link) => ({ busy: link.isBusy }));
    links.forEach((link, at) => {
      const role = roleOf(roles[at] as { busy: boolean }, roles);
      if (role === "busy" || role === "alone") blamed = true;
      const answered = link.counters.requests;
      link.trouble.died({ nowMs, role, idle: !link.isWaiting, answered, hung: worker.hung, reason: how });
    });
    // The links first: starting a process takes the time of many reads.
    for (const link of links) {
      worker.links.delete(link.number);
      if (link.worker === worker) link.worker = undefined;
      if (!link.isMoving && link.workerPid === worker.pid) link.observer.orphaned(how, worker.silentMs);
    }
    if (!this.#stopped) {
      this.#events.log("warn", how, { workerPid: worker.pid, links: links.length });
      const livedMs = nowMs - worker.bornAt;
      this.#backoff.died({ nowMs, livedMs, served: worker.hasServed, blamedOnLink: blamed });
      const delayMs = this.#backoff.delayMs(Math.random);
      this.#startLater(this.#ready.length > 0 ? Math.max(delayMs, CALM_MS) : delayMs);
    }
    this.#wake();
  }

  #startLater(delayMs: number): void {
    if (delayMs <= 0 && this.#restart === undefined) return this.fill();
    this.#restart ??= setTimeout(() => {
      this.#restart = undefined;
      this.fill();
    }, delayMs);
  }

  /** Looks after every worker: asks whether it lives, sees whether its links move, ends the one that hangs. */
  #tick(): void {
    const nowMs = performance.now();
    this.#trim();
    for (const [worker, watch] of this.#workers) {
      if (!worker.wasReady && nowMs - worker.bornAt > START_PATIENCE_MS)
        worker.kill(`worker ${worker.pid} did not get ready`);
      if (watch === undefined || !worker.isReady) continue;
      const links = [...worker.links.values()].map((link) => ({
        link: link.number,
        answered: link.counters.requests,
        waiting: !link.hasEnded && link.isWaiting,
        patienceMs: grownPatience(link.request.hangTimeoutMs, link.trouble.hangsWithoutProgress),
        asynchronous: false,
        busy: link.isBusy,
      }));
      const verdict = watch.tick({ nowMs, pongs: worker.pongs, links });
      if (verdict !== undefined) worker.kill(verdict.reason, verdict.silentMs);
      else worker.ping();
      for (const { link, answered, waiting } of links)
        worker.links.get(link)?.trouble.served({ nowMs, answered, waiting });
    }
  }

  /** One that was started to keep links apart is not needed for ever. */
  #trim(): void {
    if (this.#isRenewing || this.#workers.size <= this.#options.size) return;
    const ready = this.#ready;
    const suspects = ready.some((worker) =>
      [...worker.links.values()].some(({ trouble }) => trouble.suspicion > 0),
    );
    const idle = ready.find((worker) => worker.links.size === 0);
    if (suspects || idle === undefined || ready.length <= this.#options.size) return;
    this.#workers.delete(idle);
    idle.stop();
  }

  /** Waits a while for a worker without links, where one is just starting. */
  #idleWorker(signal: AbortSignal): Promise<void> {
    const isStarting = (worker: WorkerProcess): boolean => worker.links.size === 0 && !worker.isReady;
    return withDeadline(SPREAD_PATIENCE_MS, signal, async (patience) => {
      while (!patience.aborted && [...this.#workers.keys()].some(isStarting)) await this.#changed(patience);
    });
  }

  get #ready(): WorkerProcess[] {
    return [...this.#workers.keys()].filter((worker) => worker.isReady);
  }

  /** The best worker for a link, as soon as there is one. @throws ErofsNbdError ERR_WORKER when the signal comes first */
  async #workerFor(link: HeldLink, company: Company, signal: AbortSignal): Promise<WorkerProcess> {
    for (;;) {
      const candidates = this.#ready.map((worker) => {
        const others = [...worker.links.values()].filter((other) => other !== link);
        const suspects = others.filter(({ trouble }) => trouble.suspicion > 0).length;
        return { worker, links: others.length, suspects, innocents: others.length - suspects };
      });
      const best = place(candidates, { isSuspect: link.trouble.suspicion > 0, company });
      if (best !== undefined) return best.worker;
      if (signal.aborted || this.#stopped) {
        throw new ErofsNbdError("ERR_WORKER", `Cannot get a worker that serves: ${this.#lastDeath}`, {
          hint: "the manager's log holds what the workers said when they ended",
        });
      }
      // While a start is put off, asking again must not bring it forward.
      if (this.#restart === undefined) this.#startFor(candidates.length > 0);
      await this.#changed(signal);
    }
  }

  /** Enough workers; and one more where those there are must not be endangered. */
  #startFor(beyondSize: boolean): void {
    this.fill();
    if (beyondSize && this.#workers.size === this.#options.size) {
      try {
        this.#start();
      } catch (error) {
        this.#events.log("error", `A worker could not be started: ${String(error)}`);
      }
    }
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  #changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }
}

/** A worker is not to inherit the manager's hurry (daemon.ts). */
function likeAnybody(pid: number): void {
  try {
    setPriority(pid, OWN_NICENESS);
  } catch {
    // ESRCH: it is gone. Lowering is always allowed.
  }
}

/** Where a journal lies, of which only the descriptor is known. */
function pathOf(fd: number): string {
  return readlinkSync(`/proc/self/fd/${fd}`);
}
