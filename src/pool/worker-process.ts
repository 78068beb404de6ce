/**
 * One worker process as its manager sees it: its control channel, whether it is alive, and how it ends.
 *
 * spawn.ts provides the process, worker-links.ts has its links. The pool decides what becomes of the links of a dead
 * worker. Workers run in sessions of their own: neither Ctrl-C nor the death of the manager reaches them.
 */
import { rmSync } from "node:fs";
import type { JsonValue } from "../source/source-spec.ts";
import { ERRNO, SystemError } from "../sys/errno.ts";
import { close } from "../sys/libc/files.ts";
import { hasLostMainThread, processStat } from "../sys/process-stat.ts";
import { Channel } from "../sys/sockets/channel.ts";
import { StartWatch } from "../sys/start-watch.ts";
import { isFromWorker } from "../worker-protocol/from-worker.ts";
import type { FromWorker, InspectedSource, ToWorker } from "../worker-protocol/messages.ts";
import { PendingInspection } from "./pending-inspection.ts";
import type { HangVerdict } from "./policy/hang-watch.ts";
import { WorkerLinks } from "./worker-links.ts";

export interface WorkerOptions {
  /** Where workers write what they cannot send: an open descriptor, or that of the manager. */
  readonly stderr: number | "inherit" | "ignore";
  /** Directory of the sockets that workers listen on for later managers. */
  readonly directory: string;
  /** The program of a worker; for tests. */
  readonly workerPath?: string;
  /** How long a worker may stay silent before a link that it was offered is offered to another one; for tests. */
  readonly servingDeadlineMs?: number;
  /** How long a starting worker may do nothing; for tests. */
  readonly startSilenceMs?: number;
}

export interface WorkerEvents {
  ready(): void;
  /** The worker is dead, or stuck in the kernel for good. Called once, while `links` still has its links. */
  exited(how: string): void;
}

/** A process that may be a child of this one or of a former manager. */
export interface ProcessHandle {
  readonly pid: number;
  kill(): void;
  unref(): void;
}

/** A running process and the connections to it. */
export interface WorkerConnection {
  readonly process: ProcessHandle;
  readonly channelFd: number;
  /** The socket that it listens on for later managers. */
  readonly socketPath: string;
}

/** A worker that is silent for this long is busy, and the links that it was offered are offered to others. */
const SERVING_DEADLINE_MS = 500;
/** How often to check, after SIGKILL, whether the process is stuck in the kernel. */
const STUCK_CHECK_MS = 300;

export class WorkerProcess {
  readonly pid: number;
  readonly startedAtMs: number = performance.now();
  /** Tells whether the process makes progress until it is ready. */
  readonly startWatch: StartWatch;
  readonly links: WorkerLinks;
  readonly #process: ProcessHandle;
  readonly #socketPath: string;
  readonly #channel: Channel<FromWorker, ToWorker>;
  readonly #events: WorkerEvents;
  readonly #inspection = new PendingInspection();
  #pongs = 0;
  #isReady = false;
  #takesLeases = false;
  #isAlive = true;
  /** A message could not be sent: the process is dead, though its exit has not been reported yet. */
  #isUnreachable = false;
  #killReason: string | undefined;
  #silentMs = 0;
  #hungLink: number | undefined;
  #isSilent = false;
  /** How many pings it had answered when it left an offer unanswered. */
  #overdueAtPongs: number | undefined;
  #takesOffers = false;

  constructor(
    connect: (exited: (how: string) => void) => WorkerConnection,
    options: WorkerOptions,
    events: WorkerEvents,
  ) {
    this.#events = events;
    const { process, channelFd, socketPath } = connect((how) => this.#exited(how));
    this.#process = process;
    this.#socketPath = socketPath;
    this.pid = process.pid;
    this.startWatch = new StartWatch(
      this.pid,
      "worker",
      options.startSilenceMs === undefined ? {} : { silenceMs: options.startSilenceMs },
    );
    this.links = new WorkerLinks(this, options.servingDeadlineMs ?? SERVING_DEADLINE_MS);
    this.#channel = new Channel<FromWorker, ToWorker>(channelFd, {
      message: (message, fds) => {
        for (const fd of fds) close(fd);
        if (isFromWorker(message)) this.#handle(message);
        else this.kill(`worker ${this.pid} sent an invalid message`);
      },
      // Without its channel the worker is of no use; usually it is dead already.
      end: () => this.kill(),
    });
  }

  get isReady(): boolean {
    const isReachable = !this.#isUnreachable && this.#channel.isOpen;
    return this.#isReady && this.#isAlive && isReachable && this.#killReason === undefined;
  }

  get wasReady(): boolean {
    return this.#isReady;
  }

  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** Whether it handles the signals that come with leases. Workers of former versions do not. */
  get takesLeases(): boolean {
    return this.#takesLeases;
  }

  /** Whether a link that was offered to it can be withdrawn (journal/offer.ts). Not from workers of former versions. */
  get takesOffers(): boolean {
    return this.#takesOffers;
  }

  /** Whether it does not answer now: it is inside the code of one of its links, or stopped. Nothing is asked of it. */
  get isSilent(): boolean {
    return this.#isSilent || this.#overdueAtPongs === this.#pongs;
  }

  /** As the hang watch sees it, at every tick. If its first thread has ended, it was killed from outside. */
  noteSilence(isSilent: boolean): void {
    this.#isSilent = isSilent;
    if (isSilent && hasLostMainThread(this.pid)) this.kill();
  }

  /** It has left an offer unanswered: it is silent until it answers a ping. */
  noteOverdue(): void {
    this.#overdueAtPongs = this.#pongs;
  }

  /** How many pings it has answered. */
  get pongs(): number {
    return this.#pongs;
  }

  /** Whether it was killed because it hung. */
  get hung(): boolean {
    return this.#killReason !== undefined && this.#silentMs > 0;
  }

  /** The link in which it hung, if it was killed for that and the link is known. */
  get hungLink(): number | undefined {
    return this.#hungLink;
  }

  /** How long it had been silent when it was killed. */
  get silentMs(): number {
    return this.#silentMs;
  }

  ping(): void {
    if (this.isReady) this.post({ type: "ping" });
  }

  /** Sends SIGKILL. `hang` says that the worker hung, and in which link if that is known. */
  kill(reason?: string, hang?: Pick<HangVerdict, "silentMs" | "link">): void {
    if (!this.#isAlive) return;
    if (reason !== undefined && this.#killReason === undefined) {
      this.#killReason = reason;
      this.#silentMs = hang?.silentMs ?? 0;
      this.#hungLink = hang?.link;
    }
    this.#process.kill();
    setTimeout(() => this.#checkStuck(), STUCK_CHECK_MS).unref();
  }

  /** Has a worker with links exit after the last of them. One without links is killed: it would stay if it hangs. */
  stop(): void {
    if (this.links.areNeeded) this.post({ type: "stop" });
    else {
      this.kill();
      rmSync(this.#socketPath, { force: true });
    }
    this.unref();
  }

  /** Closes the connection; the worker goes on serving without a manager. */
  leave(): void {
    this.#isAlive = false;
    this.#channel.close();
    this.#process.unref();
  }

  /** Lets the manager exit while the worker goes on. */
  unref(): void {
    this.#channel.unref();
    this.#process.unref();
  }

  /**
   * Has it load a source module, and returns what the module provides and the first bytes of its data. Undefined when
   * the worker died meanwhile. @throws Error with the module's message; SystemError
   */
  async inspect(
    path: string,
    options: JsonValue,
    headBytes: number,
  ): Promise<(InspectedSource & { readonly head: Uint8Array }) | undefined> {
    const answered = this.#inspection.expect();
    await this.#channel.send({ type: "inspect", path, options, headBytes });
    const found = await answered;
    if (found instanceof Error) throw found;
    return found === undefined ? undefined : { ...found, head: this.#inspection.head(headBytes) };
  }

  /**
   * Sends a message. False when the process is dead, or the signal has aborted before the message was sent.
   * @throws SystemError when the message cannot be sent for lack of resources
   */
  async send(message: ToWorker, fds: readonly number[], signal: AbortSignal): Promise<boolean> {
    try {
      await this.#channel.send(message, fds, signal);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      if (this.#channel.isOpen && !isPeerGone(error)) throw error;
      // Not ready any more: a loop of requests that fail at once would keep the event loop from reporting the exit.
      this.#isUnreachable = true;
      return false;
    }
  }

  /** Sends a message that has no answer. If it cannot be sent the worker is dead, and its exit is reported. */
  post(message: ToWorker, fds: readonly number[] = []): void {
    this.#channel.send(message, fds).catch(() => {});
  }

  #handle(message: FromWorker): void {
    switch (message.type) {
      case "ready":
        this.#isReady = true;
        this.#takesLeases = message.leases === true;
        this.#takesOffers = message.offers === true;
        if (this.#takesLeases) this.post({ type: "report" });
        return this.#events.ready();
      case "pong":
        this.#pongs += 1;
        return;
      case "head":
        return this.#inspection.add(message.piece);
      case "inspected":
        return this.#inspection.settle(message);
      case "uninspectable":
        return this.#inspection.settle(new Error(message.message));
      // Only before a WorkerProcess has the connection; see reattach.ts.
      case "reunion":
      case "held":
        return;
      default:
        return this.links.handle(message);
    }
  }

  /** A process with a thread in an uninterruptible wait does not die until that ends, but never runs code again. */
  #checkStuck(): void {
    if (!this.#isAlive) return;
    if (processStat(this.pid)?.state === "D" || hasLostMainThread(this.pid))
      this.#exited(`worker ${this.pid} was killed, but is stuck in a read in the kernel`);
    else setTimeout(() => this.#checkStuck(), STUCK_CHECK_MS).unref();
  }

  #exited(how: string): void {
    if (!this.#isAlive) return;
    // The exit may be reported before messages that were sent earlier, such as the end of the last link.
    this.#channel.receiveRest();
    if (!this.#isAlive) return;
    this.#isAlive = false;
    this.#channel.close();
    rmSync(this.#socketPath, { force: true });
    this.links.end();
    this.#inspection.settle(undefined);
    this.#events.exited(this.#killReason === undefined ? how : `${this.#killReason}; it was killed`);
  }
}

/** Whether a message could not be sent because the peer has closed its end. */
function isPeerGone(error: unknown): boolean {
  return error instanceof SystemError && [ERRNO.EPIPE, ERRNO.ECONNRESET].includes(error.errno);
}
