/**
 * The worker processes of one manager: enough of them, started ahead of need, watched, replaced when they die.
 *
 * Knows processes, not where links go: the pool does, and is told when a worker is ready or dead. Workers that die of
 * themselves are started again ever more slowly (blame.ts); one that hangs is ended (hang-watch.ts).
 */
import { getPriority, setPriority } from "node:os";
import { RestartBackoff } from "./blame.ts";
import { grownPatience, HangWatch, TICK_INTERVAL_MS } from "./hang-watch.ts";
import type { ReconnectedWorker } from "./reattach.ts";
import {
  reattachWorker,
  startWorker,
  type WorkerEvents,
  type WorkerOptions,
  type WorkerProcess,
} from "./worker-process.ts";

export interface WorkerSetOptions extends WorkerOptions {
  readonly size: number;
}

export interface WorkerSetEvents {
  log(level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>): void;
  ready(): void;
  /** A worker is dead; returns whether one of its links is to blame. Its links are still in `links`. */
  exited(worker: WorkerProcess, how: string): boolean;
}

/** A successor is started when the reads that waited have been served, unless there is nobody to serve them. */
const CALM_MS = 100;
/** Before the manager gives itself another one (daemon.ts). */
const OWN_NICENESS = getPriority();
const UNHURRIED = 5;

export class WorkerSet {
  readonly #options: WorkerSetOptions;
  readonly #events: WorkerSetEvents;
  /** Each with the watch over it once it is ready. */
  readonly #workers = new Map<WorkerProcess, HangWatch | undefined>();
  readonly #waiting = new Set<() => void>();
  readonly #backoff = new RestartBackoff();
  readonly #ticker: NodeJS.Timeout;
  #lastDeath = "none has started yet";
  /** One worker will do for now; see `begin`. */
  #holdsBack = false;
  #restart: NodeJS.Timeout | undefined;
  #stopped = false;
  #tickedAt = performance.now();
  /** Nobody is dismissed for being one too many. */
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

  /** For how long nobody has looked after the workers; some 250 ms at most while all is well. */
  get unwatchedMs(): number {
    return this.#stopped ? 0 : performance.now() - this.#tickedAt;
  }

  get isStopped(): boolean {
    return this.#stopped;
  }

  /** Whether a worker is on its way: one that does not get on is ended (start-watch.ts). */
  get isStarting(): boolean {
    return this.all.some((worker) => worker.isAlive && !worker.wasReady);
  }

  /** Why there may be nobody, in words. */
  get lastDeath(): string {
    return this.#lastDeath;
  }

  /** Starts workers until there are enough. They get ready in their own time. */
  fill(): void {
    this.#holdsBack = false;
    this.#fill();
  }

  /** Starts one worker, if there is none. The others come with the next `fill`, so that nothing waits for them. */
  begin(): void {
    this.#holdsBack = true;
    this.#fill();
  }

  /** How many there are to be now. */
  get #goal(): number {
    return this.#holdsBack ? 1 : this.#options.size;
  }

  #fill(): void {
    try {
      while (!this.#stopped && this.#workers.size < this.#goal) this.#start();
    } catch (error) {
      this.#cannotStart(error);
    }
  }

  /** As `fill`, but not while a start is put off; and one more than enough where those there are will not do. */
  want(beyondSize: boolean): void {
    if (this.#restart !== undefined) return;
    this.#fill();
    if (!beyondSize || this.#stopped || this.#workers.size !== this.#goal) return;
    try {
      this.#start();
    } catch (error) {
      this.#cannotStart(error);
    }
  }

  /** A full set of fresh workers beside those there are; all are ready, or all are gone again. @throws Error: why */
  async startFresh(): Promise<WorkerProcess[]> {
    const fresh: WorkerProcess[] = [];
    try {
      while (fresh.length < this.#options.size) fresh.push(this.#start());
      // Nobody waits for these, and the processors are for those who serve.
      for (const worker of fresh) prioritise(worker.pid, OWN_NICENESS + UNHURRIED);
      // One that does not get ready is ended by the tick.
      while (fresh.some((worker) => worker.isAlive && !worker.wasReady) && !this.#stopped)
        await this.changed(new AbortController().signal);
      if (!fresh.every((worker) => worker.isReady)) throw new Error(this.#lastDeath);
      for (const worker of fresh) prioritise(worker.pid, OWN_NICENESS);
      return fresh;
    } catch (error) {
      for (const worker of fresh) this.dismiss(worker);
      throw error;
    }
  }

  /** A worker of a former manager is one of ours from now on. One that has died meanwhile is reported as any is. */
  meet(acquaintance: ReconnectedWorker): WorkerProcess {
    const worker: WorkerProcess = reattachWorker(
      acquaintance,
      this.#options,
      this.#eventsOf(() => worker),
    );
    this.#workers.set(worker, undefined);
    return worker;
  }

  /** A worker that is not needed any more; it leaves after its last link. */
  dismiss(worker: WorkerProcess): void {
    this.#workers.delete(worker);
    worker.stop();
  }

  /** Starts and watches nobody any more, and parts with each worker in this way. */
  end(partWith: (worker: WorkerProcess) => void): void {
    this.#stopped = true;
    clearInterval(this.#ticker);
    clearTimeout(this.#restart);
    for (const worker of this.all) partWith(worker);
    this.#wake();
  }

  /** Resolves when a worker has become ready or died, or the signal aborts. */
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
    const worker = startWorker(
      this.#options,
      this.#eventsOf(() => worker),
    );
    this.#workers.set(worker, undefined);
    // It is not to inherit the manager's hurry.
    prioritise(worker.pid, OWN_NICENESS);
    this.#events.log("info", `Started worker ${worker.pid}`, { workerPid: worker.pid });
    return worker;
  }

  /** No descriptors or no memory for another process: that may pass. */
  #cannotStart(error: unknown): void {
    this.#lastDeath = `A worker could not be started: ${error instanceof Error ? error.message : error}`;
    this.#events.log("error", this.#lastDeath);
    this.#backoff.died({ nowMs: performance.now(), livedMs: 0, served: false, blamedOnLink: false });
    this.#startLater(Math.max(this.#backoff.delayMs(Math.random), TICK_INTERVAL_MS));
  }

  #eventsOf(worker: () => WorkerProcess): WorkerEvents {
    return {
      ready: () => {
        this.#workers.set(worker(), new HangWatch({ workerPid: worker().pid, nowMs: performance.now() }));
        this.#wake();
        this.#events.ready();
      },
      exited: (how) => this.#exited(worker(), how),
    };
  }

  #exited(worker: WorkerProcess, how: string): void {
    if (!this.#workers.delete(worker)) return;
    this.#lastDeath = how;
    const { served, links } = { served: worker.hasServed, links: worker.links.size };
    // The links first: starting a process takes the time of many reads.
    const blamedOnLink = this.#events.exited(worker, how);
    if (!this.#stopped) {
      this.#events.log("warn", how, { workerPid: worker.pid, links });
      const nowMs = performance.now();
      this.#backoff.died({ nowMs, livedMs: nowMs - worker.bornAt, served, blamedOnLink });
      const delayMs = this.#backoff.delayMs(Math.random);
      this.#startLater(this.ready.length > 0 ? Math.max(delayMs, CALM_MS) : delayMs);
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

  /** Looks after every worker: asks whether it lives, sees whether its links move, ends the one that hangs. */
  #tick(): void {
    const nowMs = performance.now();
    this.#trim();
    for (const [worker, watch] of this.#workers) {
      const trouble = worker.wasReady ? undefined : worker.startWatch.look(nowMs);
      if (trouble !== undefined) worker.kill(`worker ${worker.pid} did not get ready: it ${trouble}`);
      if (watch === undefined || !worker.isReady) continue;
      const links = [...worker.links.values()].map((link) => ({
        link: link.number,
        answered: link.counters.requests,
        waiting: !link.hasEnded && link.isWaiting,
        patienceMs: grownPatience(link.request.hangTimeoutMs, link.trouble.hangsWithoutProgress),
        asynchronous: link.request.image.spec.type === "module",
        busy: link.isBusy,
      }));
      for (const { link, waiting } of links) worker.links.get(link)?.noteAges(nowMs, waiting);
      const verdict = watch.tick({ nowMs, pongs: worker.pongs, links });
      if (verdict !== undefined) worker.kill(verdict.reason, verdict.silentMs);
      else worker.ping();
      worker.renewLeases();
      for (const { link, answered, waiting } of links)
        worker.links.get(link)?.trouble.served({ nowMs, answered, waiting });
    }
    this.#tickedAt = nowMs;
  }

  /** One that was started to keep links apart is not needed for ever. */
  #trim(): void {
    const { ready } = this;
    if (this.keepAll || ready.length <= this.#options.size) return;
    const suspects = ready.some((worker) =>
      [...worker.links.values()].some(({ trouble }) => trouble.suspicion > 0),
    );
    const idle = ready.find((worker) => worker.links.size === 0);
    if (!suspects && idle !== undefined) this.dismiss(idle);
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}

function prioritise(pid: number, niceness: number): void {
  try {
    setPriority(pid, niceness);
  } catch {
    // ESRCH: it is gone. EACCES: then all run alike.
  }
}
