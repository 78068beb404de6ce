/**
 * One worker process as its manager sees it: started or met again, given links, asked whether it lives, ended.
 *
 * Workers are sessions of their own: neither Ctrl-C nor the manager's death reaches them. What becomes of the links
 * of one that died is the pool's business.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { renameSync, rmSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { programFile } from "../program-files.ts";
import type { JsonValue } from "../source/source-spec.ts";
import { ERRNO, SystemError } from "../sys/errno.ts";
import { close, pidfdSendSignal, SOCK_SEQPACKET, socketPair } from "../sys/libc.ts";
import { identifyProcess } from "../sys/process-identity.ts";
import { processStat } from "../sys/process-stat.ts";
import { Channel } from "../sys/sockets/channel.ts";
import { listenUnix } from "../sys/sockets/listen.ts";
import { StartWatch } from "../sys/start-watch.ts";
import { watchReadable } from "../sys/watch.ts";
import { isFromWorker } from "../worker-protocol/from-worker.ts";
import { describeEnd } from "../worker-protocol/link-end.ts";
import {
  CONTROL_FD,
  type FromWorker,
  type InspectedSource,
  REUNION_FD,
  type ToWorker,
} from "../worker-protocol/messages.ts";
import type { HeldLink } from "./held-link.ts";
import { type ReconnectedWorker, workerSocketName } from "./reattach.ts";

export interface WorkerOptions {
  /** Where workers write what they cannot tell: an open descriptor, or «inherit». */
  readonly stderr: number | "inherit" | "ignore";
  /** Where workers' sockets for later managers are. */
  readonly directory: string;
  /** The program that a worker runs; for tests. */
  readonly workerPath?: string;
  /** How long a worker may take to say that it serves a link; for tests. */
  readonly servingDeadlineMs?: number;
  /** For how long a worker that is not ready yet may do nothing; for tests. */
  readonly startSilenceMs?: number;
}

export interface WorkerEvents {
  ready(): void;
  /** It is dead, or as good as dead; called once. Its links are in `links` until then. */
  exited(how: string): void;
}

/** How a process ends that is not ours to wait for, or not the usual way. */
export interface ProcessHandle {
  readonly pid: number;
  kill(): void;
  unref(): void;
}

export const WORKER_PATH: string = programFile("worker/main.cjs");
/** A worker that does not take or give a link within this time is not working. */
const SERVING_DEADLINE_MS = 5000;
/** Of an inspected source: what it begins with is a superblock's size at most. */
const MAX_HEAD_PIECES = 16;
/** How often, after SIGKILL, to look whether a process is stuck in the kernel. */
const STUCK_CHECK_MS = 300;

export class WorkerProcess {
  readonly links: Map<number, HeldLink> = new Map();
  readonly pid: number;
  readonly bornAt: number = performance.now();
  /** Whether it gets on while it is not ready yet. */
  readonly startWatch: StartWatch;
  readonly #process: ProcessHandle;
  readonly #channel: Channel<FromWorker, ToWorker>;
  readonly #events: WorkerEvents;
  readonly #servingDeadlineMs: number;
  readonly #socketPath: string;
  /** Settle `serve` and `release`, by link. */
  readonly #answers = new Map<number, (done: boolean) => void>();
  readonly #head: Uint8Array[] = [];
  #inspected: ((found: InspectedSource | Error | undefined) => void) | undefined;
  #pongs = 0;
  #ready = false;
  #takesLeases = false;
  #alive = true;
  /** Nothing can be told to it any more. */
  #deaf = false;
  #killedFor: string | undefined;
  #silentMs = 0;
  #served = 0;
  #serves = 0;
  /** Looks after what is asked of it; see #watchAnswers. */
  #deadline: NodeJS.Timeout | undefined;
  #answeredAt = 0;

  constructor(
    start: (exited: (how: string) => void) => {
      process: ProcessHandle;
      channelFd: number;
      socketPath: string;
    },
    options: WorkerOptions,
    events: WorkerEvents,
  ) {
    this.#events = events;
    this.#servingDeadlineMs = options.servingDeadlineMs ?? SERVING_DEADLINE_MS;
    const started = start((how) => this.#exited(how));
    this.#process = started.process;
    this.#socketPath = started.socketPath;
    this.pid = started.process.pid;
    this.startWatch = new StartWatch(
      this.pid,
      "worker",
      options.startSilenceMs === undefined ? {} : { silenceMs: options.startSilenceMs },
    );
    this.#channel = new Channel<FromWorker, ToWorker>(started.channelFd, {
      message: (message, fds) => {
        for (const fd of fds) close(fd);
        if (isFromWorker(message)) this.#hear(message);
        else this.kill(`worker ${this.pid} said what no worker says`);
      },
      end: () => {
        // A worker without its channel cannot be told anything any more; mostly it is dead already.
        if (this.#alive) this.kill();
      },
    });
  }

  get isReady(): boolean {
    return this.#ready && this.#alive && !this.#deaf && this.#killedFor === undefined && this.#channel.isOpen;
  }

  get wasReady(): boolean {
    return this.#ready;
  }

  get isAlive(): boolean {
    return this.#alive;
  }

  /** Whether it has answered anything. */
  get hasServed(): boolean {
    return this.#served > 0 || [...this.links.values()].some((link) => link.counters.requests > 0);
  }

  get pongs(): number {
    return this.#pongs;
  }

  /** Whether it was ended because it hung. */
  get hung(): boolean {
    return this.#killedFor !== undefined && this.#silentMs > 0;
  }

  /** For how long nothing was heard of it when it was ended. */
  get silentMs(): number {
    return this.#silentMs;
  }

  ping(): void {
    if (this.isReady) this.#channel.send({ type: "ping" }).catch(() => {});
  }

  /** Ends it. With a reason it is a hang, and `silentMs` how long it has served nothing. */
  kill(reason?: string, silentMs = 0): void {
    if (!this.#alive) return;
    if (reason !== undefined && this.#killedFor === undefined) {
      this.#killedFor = reason;
      this.#silentMs = silentMs;
    }
    this.#process.kill();
    setTimeout(() => this.#checkStuck(), STUCK_CHECK_MS).unref();
  }

  /** It serves a link that is not one of ours, and that nobody else could. */
  leaveLink(): void {
    this.#serves += 1;
  }

  /** One that serves leaves after its last link; one that does not is ended, or it would stay if it hangs. */
  stop(): void {
    // A link that was given up and is still here: it hangs, and would never hear of its end.
    if (this.#serves === 0 && ![...this.links.values()].some((link) => link.isOpen && !link.hasEnded)) {
      this.kill();
      rmSync(this.#socketPath, { force: true });
    } else this.#channel.send({ type: "stop" }).catch(() => {});
    this.unref();
  }

  /** Lets the manager end while the worker goes on. */
  unref(): void {
    this.#channel.unref();
    this.#process.unref();
  }

  /** Whether a link is just being given to it, or taken from it: nothing else can be asked about that link meanwhile. */
  isAskedAbout(link: HeldLink): boolean {
    return this.#answers.has(link.number);
  }

  /** Gives it a link; false when it turned out not to serve: another worker may. @throws SystemError when we have no means */
  async serve(link: HeldLink): Promise<boolean> {
    if (!link.isOpen || link.hasEnded) return false;
    this.links.set(link.number, link);
    link.worker = this;
    link.refusal = undefined;
    link.lease.prepareFor(this.pid, this.#takesLeases);
    const serves = await this.#ask(link.number, { type: "serve", ...link.describe() }, link.descriptors);
    if (serves) {
      link.workerPid = this.pid;
      return true;
    }
    if (link.worker === this) link.worker = undefined;
    this.links.delete(link.number);
    return false;
  }

  /** Gets leases again for links that have none: a writer may have gone. To be called now and then. */
  renewLeases(): void {
    if (!this.#takesLeases || !this.isReady) return;
    for (const link of this.links.values()) {
      if (!link.isOpen || link.hasEnded || link.worker !== this || this.isAskedAbout(link)) continue;
      const fd = link.lease.renewFor(this.pid);
      if (fd !== undefined) this.#channel.send({ type: "lease", link: link.number }, [fd]).catch(() => {});
    }
  }

  /** Takes a link away from it, to be given to another one; false when it died or the link ended meanwhile. */
  async release(link: HeldLink): Promise<boolean> {
    const released = await this.#ask(link.number, { type: "release", link: link.number }, []);
    this.links.delete(link.number);
    if (link.worker === this) link.worker = undefined;
    return released;
  }

  /**
   * Has it load a source module, and say what that makes and how its data begins; undefined when it died of that.
   * @throws Error with the module's own trouble; SystemError
   */
  async inspect(
    path: string,
    options: JsonValue,
    headBytes: number,
  ): Promise<(InspectedSource & { readonly head: Uint8Array }) | undefined> {
    const answered = new Promise<InspectedSource | Error | undefined>((resolve) => {
      this.#inspected = resolve;
    });
    await this.#channel.send({ type: "inspect", path, options, headBytes });
    const found = await answered;
    if (found instanceof Error) throw found;
    return found === undefined
      ? undefined
      : { ...found, head: Buffer.concat(this.#head).subarray(0, headBytes) };
  }

  /** It serves this link already. */
  adopt(link: HeldLink): void {
    this.links.set(link.number, link);
    link.worker = this;
    link.workerPid = this.pid;
  }

  /** Ends the connection; the worker serves on without a manager. */
  leave(): void {
    this.#alive = false;
    this.#channel.close();
    this.#process.unref();
  }

  /** Gives a link up for good. */
  close(link: HeldLink): void {
    if (this.links.has(link.number)) this.giveUp(link.number);
  }

  confirm(link: number): void {
    this.#channel.send({ type: "confirm", link }).catch(() => {});
  }

  giveUp(link: number): void {
    this.#channel.send({ type: "close", link }).catch(() => {});
  }

  async #ask(link: number, message: ToWorker, fds: readonly number[]): Promise<boolean> {
    if (!this.#alive) return false;
    // From before the sending: the channel of a worker that hangs may be full.
    this.#watchAnswers();
    const answered = new Promise<boolean>((resolve) => this.#answers.set(link, resolve));
    try {
      await this.#channel.send(message, fds);
      return await answered;
    } catch (error) {
      if (this.#channel.isOpen && !isPeerGone(error)) throw error;
      // Dead, though its exit has not been reported yet: if it were asked again, the asking would go round and round
      // without ever letting the report through.
      this.#deaf = true;
      return false;
    } finally {
      this.#answers.delete(link);
    }
  }

  /**
   * Ends it if it answers nothing for too long while something is asked of it. One that has hundreds of links to take
   * may be long about the last of them; what counts is that it goes on.
   */
  #watchAnswers(): void {
    if (this.#answers.size === 0) this.#answeredAt = performance.now();
    if (this.#deadline !== undefined) return;
    const look = (): void => {
      this.#deadline = undefined;
      if (this.#answers.size === 0 || !this.#alive) return;
      const silentMs = performance.now() - this.#answeredAt;
      if (silentMs >= this.#servingDeadlineMs)
        return this.kill(`worker ${this.pid} did not take or give a link in time`, silentMs);
      this.#deadline = setTimeout(wake, this.#servingDeadlineMs - silentMs);
    };
    // What has come while this process itself stood still is heard first.
    const wake = (): void => void setImmediate(look);
    this.#deadline = setTimeout(wake, this.#servingDeadlineMs);
  }

  #hear(message: FromWorker): void {
    if (message.type === "ready") {
      this.#ready = true;
      this.#takesLeases = message.leases === true;
      if (this.#takesLeases) this.#channel.send({ type: "report" }).catch(() => {});
      return this.#events.ready();
    }
    if (message.type === "pong") {
      this.#pongs += 1;
      return;
    }
    if (message.type === "reunion") return;
    if (message.type === "head") {
      if (this.#head.length < MAX_HEAD_PIECES) this.#head.push(Buffer.from(message.piece, "base64"));
      return;
    }
    if (message.type === "inspected") return this.#inspected?.(message);
    if (message.type === "uninspectable") return this.#inspected?.(new Error(message.message));
    const link = this.links.get(message.link);
    if (this.#answers.has(message.link)) this.#answeredAt = performance.now();
    if (message.type === "serving" || message.type === "released") this.#answers.get(message.link)?.(true);
    else if (message.type === "refused") {
      if (link !== undefined) link.refusal = message.message;
      this.#answers.get(message.link)?.(false);
    } else if (message.type === "held" || link === undefined) return;
    else if (message.type === "lease-over") link.lease.drop();
    else if (message.type === "exactness") {
      if (link.lease.told(message)) link.observer.repinned?.();
      link.observer.exactness?.();
    } else if (message.type === "first-request") link.observer.firstRequest();
    else if (message.type === "read-error") link.observer.readErrors(message.message, message.count);
    else {
      this.links.delete(message.link);
      this.#served += message.counters.requests;
      link.worker = undefined;
      link.hasEnded = true;
      this.#answers.get(message.link)?.(false);
      link.observer.ended(`worker ${this.pid} ended the link: ${describeEnd(message.end)}`, message.end);
    }
  }

  /** A process inside an uninterruptible wait ignores SIGKILL until that ends, and never runs its own code again. */
  #checkStuck(): void {
    if (!this.#alive) return;
    if (processStat(this.pid)?.state === "D")
      this.#exited(`worker ${this.pid} was ended, and waits in the kernel for what it was reading`);
    else setTimeout(() => this.#checkStuck(), STUCK_CHECK_MS).unref();
  }

  #exited(how: string): void {
    if (!this.#alive) return;
    this.#alive = false;
    clearTimeout(this.#deadline);
    this.#channel.close();
    rmSync(this.#socketPath, { force: true });
    for (const answer of [...this.#answers.values()]) answer(false);
    this.#inspected?.(undefined);
    this.#events.exited(this.#killedFor === undefined ? how : `${this.#killedFor}; it was killed`);
  }
}

/** Starts a worker process. @throws Error when there is no process or descriptor to be had */
export function startWorker(options: WorkerOptions, events: WorkerEvents): WorkerProcess {
  return new WorkerProcess(
    (exited) => {
      const [ours, theirs] = socketPair(SOCK_SEQPACKET);
      let socketPath = join(options.directory, `new-${randomBytes(4).toString("hex")}`);
      let listenFd: number | undefined;
      try {
        listenFd = listenUnix(socketPath, SOCK_SEQPACKET);
        const child = spawnWorker(options, theirs, listenFd);
        socketPath = nameSocket(socketPath, options.directory, child.pid);
        child.once("error", (error) => exited(`A worker could not be started: ${error.message}`));
        child.once("exit", (code, signal) => exited(describeExit(child.pid, code, signal)));
        const process = {
          pid: child.pid ?? -1,
          kill: () => void child.kill("SIGKILL"),
          unref: () => child.unref(),
        };
        return { process, channelFd: ours, socketPath };
      } catch (error) {
        close(ours);
        rmSync(socketPath, { force: true });
        throw error;
      } finally {
        close(theirs);
        if (listenFd !== undefined) close(listenFd);
      }
    },
    options,
    events,
  );
}

/** A worker of a former manager, over the socket that it listens on. */
export function reattachWorker(
  { pid, pidFd, channelFd, socketPath }: Omit<ReconnectedWorker, "links">,
  options: WorkerOptions,
  events: WorkerEvents,
): WorkerProcess {
  return new WorkerProcess(
    (exited) => {
      const watch = watchReadable(pidFd, () => {
        end();
        exited(`worker ${pid} has ended`);
      });
      const end = (): void => {
        watch.close();
        close(pidFd);
      };
      // ESRCH: it has just ended by itself.
      const kill = (): void => void pidfdSendSignal(pidFd, constants.signals.SIGKILL);
      return { process: { pid, kill, unref: () => watch.unref() }, channelFd, socketPath };
    },
    options,
    events,
  );
}

/** Named by its worker: a manager after this one has to know which process it is that does not answer. */
function nameSocket(path: string, directory: string, pid: number | undefined): string {
  const identity = pid === undefined ? undefined : identifyProcess(pid);
  if (identity === undefined) return path;
  const named = join(directory, workerSocketName(identity));
  renameSync(path, named);
  return named;
}

function spawnWorker(options: WorkerOptions, controlFd: number, reunionFd: number): ChildProcess {
  const stdio: Array<"ignore" | "inherit" | number> = ["ignore", "ignore", options.stderr];
  stdio[CONTROL_FD] = controlFd;
  stdio[REUNION_FD] = reunionFd;
  return spawn(process.execPath, [options.workerPath ?? WORKER_PATH], { stdio, detached: true, cwd: "/" });
}

function describeExit(pid: number | undefined, code: number | null, signal: NodeJS.Signals | null): string {
  return signal === null ? `worker ${pid} exited with ${code}` : `worker ${pid} was killed by ${signal}`;
}

/** Whether a message could not be sent because there is nobody at the other end. */
function isPeerGone(error: unknown): boolean {
  return error instanceof SystemError && [ERRNO.EPIPE, ERRNO.ECONNRESET].includes(error.errno);
}
