/**
 * The worker processes of one manager: enough of them, started ahead of need, watched, and replaced when they die.
 *
 * Used by the pool, which decides where links go and receives an event when a worker is ready or dead. Workers that die
 * early are replaced with growing delays (policy/backoff.ts), workers that hang are killed (policy/hang-watch.ts).
 */
import { dropReserve, fillReserve } from "../sys/libc/descriptor-reserve.ts";
import { lowerPriority, resetPriority } from "../sys/priority.ts";
import { AWAITED } from "../worker-protocol/messages.ts";
import { RestartBackoff } from "./policy/backoff.ts";
import { HangWatch, TICK_INTERVAL_MS } from "./policy/hang-watch.ts";
import { countIsolated, countNeeded, idleSurplus, needsSpare } from "./policy/staffing.ts";
import type { ReconnectedWorker } from "./reattach.ts";
import { reattachWorker, startWorker } from "./spawn.ts";
import { watchWorker } from "./watch-worker.ts";
import type { WorkerEvents, WorkerOptions, WorkerProcess } from "./worker-process.ts";

export interface WorkerSetOptions extends WorkerOptions {
  readonly size: number;
}

export interface WorkerSetEvents {
  log(level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>): void;
  /** A worker has become able to take links: it is ready, or answers again. */
  available(): void;
  /** A worker is dead; returns whether one of its links is blamed. `links` still has its links. */
  exited(worker: WorkerProcess, how: string): boolean;
}

/** Delay of a successor's start while another worker is ready: starting takes processor time from waiting reads. */
const SUCCESSOR_DELAY_MS = 100;

export class WorkerSet {
  readonly #options: WorkerSetOptions;
  readonly #events: WorkerSetEvents;
  /** All workers; a worker has a hang watch once it is ready. */
  readonly #workers = new Map<WorkerProcess, HangWatch | undefined>();
  /** Workers that were silent at the last tick. */
  readonly #silent = new Set<WorkerProcess>();
  readonly #waiting = new Set<() => void>();
  readonly #backoff = new RestartBackoff();
  readonly #ticker: NodeJS.Timeout;
  #lastDeath = "none has started yet";
  /** One worker is enough for now; see `begin`. */
  #holdsBack = false;
  #hasStarted = false;
  #restart: NodeJS.Timeout | undefined;
  #isStopped = false;
  #tickedAtMs = performance.now();
  /** While set, surplus workers are not dismissed. */
  keepAll = false;

  constructor(options: WorkerSetOptions, events: WorkerSetEvents) {
    this.#options = options;
    this.#events = events;
    this.#ticker = setInterval(() => this.#tick(), TICK_INTERVAL_MS).unref();
  }

  get all(): WorkerProcess[] {
    return [...this.#workers.keys()];
  }

  get ready(): WorkerProcess[] {
    return this.all.filter((worker) => worker.isReady);
  }

  /** Time since the last tick; normally at most about 250 ms. */
  get unwatchedMs(): number {
    return this.#isStopped ? 0 : performance.now() - this.#tickedAtMs;
  }

  get isStopped(): boolean {
    return this.#isStopped;
  }

  /** Whether a worker is starting. A start without progress is ended (start-watch.ts), so this does not last. */
  get isStarting(): boolean {
    return this.all.some((worker) => worker.isAlive && !worker.wasReady);
  }

  /** How the last worker died: the reason if there is none. */
  get lastDeath(): string {
    return this.#lastDeath;
  }

  /** Starts workers until there are enough, and returns at once. */
  fill(): void {
    this.#holdsBack = false;
    this.#fill();
  }

  /** Starts one worker if there is none. The others are started by the next `fill`, after the first attach. */
  begin(): void {
    this.#holdsBack = true;
    this.#fill();
  }

  get #full(): number {
    return countNeeded(this.all, this.#options.size);
  }

  get #goal(): number {
    return this.#holdsBack ? 1 : this.#full;
  }

  /** See staffing.ts. */
  get isolatedCount(): number {
    return countIsolated(this.all);
  }

  #fill(): void {
    try {
      while (!this.#isStopped && this.#workers.size < this.#goal) this.#start();
    } catch (error) {
      this.#startFailed(error);
    }
  }

  /**
   * Like `fill`, but without effect while a start is delayed. With `beyondSize` one more than enough is started,
   * because the existing workers are not acceptable.
   */
  want(beyondSize: boolean): void {
    if (this.#restart !== undefined) return;
    this.#fill();
    if (!beyondSize || this.#isStopped || this.#workers.size !== this.#goal || this.isStarting) return;
    this.#startOneMore();
  }

  #startOneMore(): WorkerProcess | undefined {
    try {
      return this.#start();
    } catch (error) {
      this.#startFailed(error);
      return undefined;
    }
  }

  /** Starts a full set of workers beside the existing ones. All become ready, or none stays. @throws Error: why */
  async startFresh(): Promise<WorkerProcess[]> {
    const fresh: WorkerProcess[] = [];
    try {
      while (fresh.length < this.#full) fresh.push(this.#start());
      // Nothing waits for them, so they must not slow down the workers that serve.
      for (const worker of fresh) lowerPriority(worker.pid);
      // The tick ends those that make no progress.
      while (fresh.some((worker) => worker.isAlive && !worker.wasReady) && !this.#isStopped)
        await this.changed(new AbortController().signal);
      if (!fresh.every((worker) => worker.isReady)) throw new Error(this.#lastDeath);
      for (const worker of fresh) resetPriority(worker.pid);
      return fresh;
    } catch (error) {
      for (const worker of fresh) this.dismiss(worker);
      throw error;
    }
  }

  /** Takes over a worker of a former manager. If it has died meanwhile, its exit is reported as usual. */
  reattach(reconnected: ReconnectedWorker): WorkerProcess {
    const worker: WorkerProcess = reattachWorker(
      reconnected,
      this.#options,
      this.#eventsOf(() => worker),
    );
    this.#workers.set(worker, undefined);
    return worker;
  }

  /** Dismisses a worker that is not needed; it exits after its last link. */
  dismiss(worker: WorkerProcess): void {
    this.#workers.delete(worker);
    this.#silent.delete(worker);
    worker.stop();
  }

  /** Stops starting and watching, and calls `part` for each worker. */
  end(part: (worker: WorkerProcess) => void): void {
    this.#isStopped = true;
    clearInterval(this.#ticker);
    dropReserve();
    clearTimeout(this.#restart);
    for (const worker of this.all) part(worker);
    this.#wake();
  }

  /** Resolves when a worker has become ready or died, or when the signal aborts. */
  changed(signal: AbortSignal): Promise<void> {
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

  #start(): WorkerProcess {
    // An attach waits for the first worker of the manager that it has started, so that one warms up later.
    const isAwaited = this.#holdsBack && !this.#hasStarted;
    const worker = startWorker(
      this.#options,
      this.#eventsOf(() => worker),
      isAwaited ? [AWAITED] : [],
    );
    this.#hasStarted = true;
    this.#workers.set(worker, undefined);
    // It has inherited the manager's raised priority.
    resetPriority(worker.pid);
    this.#events.log("info", `Started worker ${worker.pid}`, { workerPid: worker.pid });
    return worker;
  }

  /** Usually descriptors or memory are lacking, which may be temporary. */
  #startFailed(error: unknown): void {
    this.#lastDeath = `cannot start a worker: ${error instanceof Error ? error.message : error}`;
    this.#events.log("error", this.#lastDeath);
    this.#backoff.died({ nowMs: performance.now(), livedMs: 0, served: false, blamedOnLink: false });
    this.#startLater(Math.max(this.#backoff.delayMs(Math.random), TICK_INTERVAL_MS));
  }

  #eventsOf(worker: () => WorkerProcess): WorkerEvents {
    return {
      ready: () => {
        this.#workers.set(worker(), new HangWatch({ workerPid: worker().pid, nowMs: performance.now() }));
        resetPriority(worker().pid);
        this.#wake();
        this.#events.available();
      },
      exited: (how) => this.#exited(worker(), how),
    };
  }

  #exited(worker: WorkerProcess, how: string): void {
    if (!this.#workers.delete(worker)) return;
    this.#silent.delete(worker);
    this.#lastDeath = how;
    const served = worker.links.haveServed;
    const links = worker.links.size;
    // Links first: starting a process takes as long as many reads.
    const blamedOnLink = this.#events.exited(worker, how);
    if (!this.#isStopped) {
      this.#events.log("warn", how, { workerPid: worker.pid, links });
      const nowMs = performance.now();
      this.#backoff.died({ nowMs, livedMs: nowMs - worker.startedAtMs, served, blamedOnLink });
      const delayMs = this.#backoff.delayMs(Math.random);
      this.#startLater(this.ready.length > 0 ? Math.max(delayMs, SUCCESSOR_DELAY_MS) : delayMs);
    }
    this.#wake();
  }

  #startLater(delayMs: number): void {
    if (delayMs <= 0 && this.#restart === undefined) return this.#fill();
    this.#restart ??= setTimeout(() => {
      this.#restart = undefined;
      this.#fill();
    }, delayMs);
  }

  /** Looks at every worker (watch-worker.ts), and at whether there are enough. */
  #tick(): void {
    const nowMs = performance.now();
    fillReserve();
    this.#trim();
    let isHeardAgain = false;
    for (const [worker, watch] of this.#workers) {
      const wasSilent = this.#silent.has(worker);
      watchWorker(worker, watch, nowMs);
      if (worker.isSilent && worker.isReady) this.#silent.add(worker);
      else if (this.#silent.delete(worker) && wasSilent) isHeardAgain ||= worker.isReady;
    }
    if (this.#restart === undefined && !this.#holdsBack) this.#staff();
    this.#tickedAtMs = nowMs;
    if (!isHeardAgain) return;
    this.#wake();
    this.#events.available();
  }

  /** Starts missing workers, and one more where a silent one may be about to hang. */
  #staff(): void {
    this.#fill();
    if (!needsSpare(this.#workers) || this.isStarting || this.#workers.size > this.#goal) return;
    const spare = this.#startOneMore();
    // Its start must not slow down the workers that serve.
    if (spare !== undefined) lowerPriority(spare.pid);
  }

  #trim(): void {
    if (this.keepAll || this.ready.length <= this.#goal) return;
    const idle = idleSurplus(this.ready);
    if (idle !== undefined) this.dismiss(idle);
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}
