/**
 * The workers of one manager: started ahead of need, given links, replaced when they die.
 *
 * Implements LinkServer for the supervisors. There are always two, so that the links of a dead one have somewhere
 * to go at once; new links go to the one with fewer. A worker that dies again and again is started again ever more
 * slowly. Workers are sessions of their own: neither Ctrl-C nor the manager's death reaches them.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { ErofsNbdError } from "../errors.ts";
import { withDeadline } from "../supervisor/deadline.ts";
import type { LinkObserver, LinkRequest, LinkServer, OpenLink } from "../supervisor/ports.ts";
import { Channel } from "../sys/channel.ts";
import { ERRNO, SystemError } from "../sys/errno.ts";
import { close, SOCK_NONBLOCK, SOCK_SEQPACKET, SOCK_STREAM, socketPair } from "../sys/libc.ts";
import { describeEnd, type LinkCounters, NO_COUNTERS } from "../worker/link-end.ts";
import { CONTROL_FD, type FromWorker, type ToWorker } from "../worker/worker-protocol.ts";

export interface PoolEvents {
  log(level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>): void;
}

export interface PoolOptions {
  readonly size: number;
  /** Where workers write what they cannot tell: an open descriptor, or «inherit». */
  readonly stderr: number | "inherit" | "ignore";
  /** The program that a worker runs; for tests. */
  readonly workerPath?: string;
  /** How long a worker may take to say that it serves a link; for tests. */
  readonly servingDeadlineMs?: number;
}

const WORKER_PATH = fileURLToPath(new URL("../worker/main.js", import.meta.url));
/** A worker that does not take a link within this time is not working. */
const SERVING_DEADLINE_MS = 5000;
/** How long a device with several links waits for a second worker to start. */
const SPREAD_PATIENCE_MS = 3000;
const REPORT_INTERVAL_MS = 1000;
const REPORT_PATIENCE_MS = 200;
/** A worker that lived shorter than this died of its start, not of its work. */
const SHORT_LIFE_MS = 5000;
const MIN_RESTART_MS = 100;
const MAX_RESTART_MS = 10_000;

/** A link as the pool knows it. */
interface PooledLink {
  readonly observer: LinkObserver;
  counters: Readonly<LinkCounters>;
  /** Settles `openLink`; gone once the worker has said that it serves: from then on the observer hears. */
  opening: ((serves: boolean) => void) | undefined;
}

export class WorkerPool implements LinkServer {
  readonly #options: PoolOptions;
  readonly #events: PoolEvents;
  readonly #workers = new Set<PooledWorker>();
  readonly #waiting = new Set<() => void>();
  readonly #reporter: NodeJS.Timeout;
  #nextLink = 1;
  #shortLives = 0;
  #lastDeath = "none has started yet";
  #restart: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(options: PoolOptions, events: PoolEvents) {
    this.#options = options;
    this.#events = events;
    this.#reporter = setInterval(() => void this.refreshCounters(), REPORT_INTERVAL_MS).unref();
  }

  /** Starts workers until there are enough. They get ready in their own time; `openLink` waits for them. */
  fill(): void {
    try {
      while (!this.#stopped && this.#workers.size < this.#options.size) this.#start();
    } catch (error) {
      // No descriptors or no memory for another process: that may pass.
      this.#lastDeath = `A worker could not be started: ${error instanceof Error ? error.message : error}`;
      this.#events.log("error", this.#lastDeath);
      this.#startLater();
    }
  }

  get pids(): number[] {
    return [...this.#workers].map((worker) => worker.pid);
  }

  async openLink(request: LinkRequest, observer: LinkObserver, signal: AbortSignal): Promise<OpenLink> {
    if (request.spread) await this.#idleWorker(signal);
    for (;;) {
      const worker = await this.#readyWorker(signal);
      const link = await worker.openLink(this.#nextLink++, request, observer);
      if (link !== undefined) return link;
    }
  }

  /** Asks every worker what its links have done; a worker that does not answer soon keeps its last numbers. */
  async refreshCounters(): Promise<void> {
    await Promise.all([...this.#workers].map((worker) => worker.report()));
  }

  /** Tells the workers to leave when their last link has ended. */
  stop(): void {
    this.#stopped = true;
    clearInterval(this.#reporter);
    clearTimeout(this.#restart);
    for (const worker of this.#workers) worker.stop();
    this.#wake();
  }

  #start(): void {
    const worker = new PooledWorker(this.#options, {
      ready: () => this.#wake(),
      exited: (how, livedMs) => this.#exited(worker, how, livedMs),
    });
    this.#workers.add(worker);
    this.#events.log("info", `Started worker ${worker.pid}`, { workerPid: worker.pid });
  }

  #exited(worker: PooledWorker, how: string, livedMs: number): void {
    this.#workers.delete(worker);
    this.#lastDeath = how;
    if (this.#stopped) return;
    this.#events.log("warn", how, { workerPid: worker.pid });
    if (livedMs < SHORT_LIFE_MS && !worker.wasReady) return this.#startLater();
    this.#shortLives = 0;
    this.fill();
  }

  #startLater(): void {
    this.#shortLives += 1;
    const delay =
      Math.min(MIN_RESTART_MS * 2 ** this.#shortLives, MAX_RESTART_MS) * (0.5 + Math.random() / 2);
    this.#restart ??= setTimeout(() => {
      this.#restart = undefined;
      this.fill();
    }, delay);
  }

  /** Waits a while for a worker without links, where one is just starting. */
  #idleWorker(signal: AbortSignal): Promise<void> {
    const isStarting = (worker: PooledWorker): boolean => worker.linkCount === 0 && !worker.isReady;
    return withDeadline(SPREAD_PATIENCE_MS, signal, async (patience) => {
      while (!patience.aborted && [...this.#workers].some(isStarting)) await this.#changed(patience);
    });
  }

  async #readyWorker(signal: AbortSignal): Promise<PooledWorker> {
    for (;;) {
      const ready = [...this.#workers].filter((worker) => worker.isReady);
      const best = ready.sort((a, b) => a.linkCount - b.linkCount)[0];
      if (best !== undefined) return best;
      if (signal.aborted || this.#stopped) {
        throw new ErofsNbdError("ERR_WORKER", `Cannot get a worker that serves: ${this.#lastDeath}`, {
          hint: "the manager's log holds what the workers said when they ended",
        });
      }
      // While a start is put off, asking again must not bring it forward.
      if (this.#restart === undefined) this.fill();
      await this.#changed(signal);
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

interface WorkerEvents {
  ready(): void;
  exited(how: string, livedMs: number): void;
}

/** One worker process and the links it was given. */
class PooledWorker {
  readonly #process: ChildProcess;
  readonly #channel: Channel<FromWorker, ToWorker>;
  readonly #events: WorkerEvents;
  readonly #links = new Map<number, PooledLink>();
  readonly #bornAt = performance.now();
  readonly #servingDeadlineMs: number;
  #reports = new Map<number, () => void>();
  #nextToken = 1;
  #ready = false;
  #alive = true;
  /** Nothing can be told to it any more. */
  #deaf = false;

  /** @throws Error when there is no process or descriptor to be had */
  constructor(options: PoolOptions, events: WorkerEvents) {
    this.#events = events;
    this.#servingDeadlineMs = options.servingDeadlineMs ?? SERVING_DEADLINE_MS;
    const [ours, theirs] = socketPair(SOCK_SEQPACKET);
    const stdio: Array<"ignore" | "inherit" | number> = ["ignore", "ignore", options.stderr];
    stdio[CONTROL_FD] = theirs;
    try {
      const path = options.workerPath ?? WORKER_PATH;
      this.#process = spawn(process.execPath, [path], { stdio, detached: true, cwd: "/" });
    } catch (error) {
      close(ours);
      throw error;
    } finally {
      close(theirs);
    }
    this.#channel = new Channel<FromWorker, ToWorker>(ours, {
      message: (message, fds) => {
        for (const fd of fds) close(fd);
        this.#hear(message);
      },
      end: () => {
        // A worker without its channel cannot be told anything any more; mostly it is dead already.
        if (this.#alive) this.kill();
      },
    });
    this.#process.once("error", (error) => this.#exited(`A worker could not be started: ${error.message}`));
    this.#process.once("exit", (code, signal) => this.#exited(this.#describeExit(code, signal)));
  }

  get pid(): number {
    return this.#process.pid ?? -1;
  }

  get isReady(): boolean {
    return this.#ready && this.#alive && !this.#deaf && this.#channel.isOpen;
  }

  get wasReady(): boolean {
    return this.#ready;
  }

  get linkCount(): number {
    return this.#links.size;
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }

  /** One that serves leaves after its last link; one that does not is ended, or it would stay if it hangs. */
  stop(): void {
    if (this.#links.size === 0) this.kill();
    else this.#channel.send({ type: "stop" }).catch(() => {});
    this.#channel.unref();
    this.#process.unref();
  }

  /** Undefined when this worker turned out not to serve; another one may. */
  async openLink(
    number: number,
    request: LinkRequest,
    observer: LinkObserver,
  ): Promise<OpenLink | undefined> {
    const [kernelFd, serverFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
    const link: PooledLink = { observer, counters: NO_COUNTERS, opening: undefined };
    this.#links.set(number, link);
    const { image, copyOnly } = request;
    const message: ToWorker = {
      type: "serve",
      link: number,
      source: image.spec,
      blockSizeBytes: image.blockSizeBytes,
      copyOnly,
    };
    const served = new Promise<boolean>((resolve) => {
      link.opening = resolve;
    });
    // From before the sending: the channel of a worker that hangs may be full.
    const deadline = setTimeout(() => this.kill(), this.#servingDeadlineMs);
    try {
      await this.#channel.send(message, [serverFd, image.fd]).finally(() => close(serverFd));
      if (await served) return this.#handle(number, link, kernelFd);
    } catch (error) {
      if (this.#channel.isOpen && !isPeerGone(error)) {
        this.#links.delete(number);
        close(kernelFd);
        throw error;
      }
      // Dead, though its exit has not been reported yet: if it were asked again, the asking would go round and round
      // without ever letting the report through.
      this.#deaf = true;
    } finally {
      clearTimeout(deadline);
    }
    this.#links.delete(number);
    close(kernelFd);
    return undefined;
  }

  async report(): Promise<void> {
    if (!this.isReady || this.#links.size === 0) return;
    const token = this.#nextToken++;
    await new Promise<void>((resolve) => {
      const patience = setTimeout(() => this.#reports.get(token)?.(), REPORT_PATIENCE_MS);
      this.#reports.set(token, () => {
        clearTimeout(patience);
        this.#reports.delete(token);
        resolve();
      });
      this.#channel.send({ type: "report", token }).catch(() => this.#reports.get(token)?.());
    });
  }

  #handle(number: number, link: PooledLink, kernelFd: number): OpenLink {
    return {
      number,
      workerPid: this.pid,
      kernelFd,
      get counters() {
        return link.counters;
      },
      close: () => {
        if (this.#links.has(number)) this.#channel.send({ type: "close", link: number }).catch(() => {});
      },
    };
  }

  #hear(message: FromWorker): void {
    if (message.type === "ready") {
      this.#ready = true;
      return this.#events.ready();
    }
    if (message.type === "report") {
      for (const { link, counters } of message.links) {
        const known = this.#links.get(link);
        if (known !== undefined) known.counters = counters;
      }
      return this.#reports.get(message.token)?.();
    }
    const link = this.#links.get(message.link);
    if (link === undefined) return;
    if (message.type === "serving" || message.type === "refused") {
      link.opening?.(message.type === "serving");
      link.opening = undefined;
    } else if (message.type === "first-request") link.observer.firstRequest();
    else if (message.type === "read-error") link.observer.readErrors(message.message, message.count);
    else {
      this.#links.delete(message.link);
      link.counters = message.counters;
      link.observer.ended(`worker ${this.pid} ended the link: ${describeEnd(message.end)}`, message.end);
    }
  }

  #describeExit(code: number | null, signal: NodeJS.Signals | null): string {
    return signal === null
      ? `worker ${this.pid} exited with ${code}`
      : `worker ${this.pid} was killed by ${signal}`;
  }

  #exited(how: string): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.#channel.close();
    for (const done of [...this.#reports.values()]) done();
    this.#events.exited(how, performance.now() - this.#bornAt);
    for (const link of [...this.#links.values()]) {
      if (link.opening === undefined) link.observer.ended(how, undefined);
      else link.opening(false);
    }
    this.#links.clear();
  }
}

/** Whether a message could not be sent because there is nobody at the other end. */
function isPeerGone(error: unknown): boolean {
  return error instanceof SystemError && [ERRNO.EPIPE, ERRNO.ECONNRESET].includes(error.errno);
}
