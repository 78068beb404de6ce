/**
 * A LinkServer without workers, over real socketpairs, so that hang-ups are real; the test decides what happens.
 *
 * A link can be orphaned (its worker dies, its socket stays), killed (both are gone), hung up without a message, or
 * ended with one. Takeovers go as the test has planned them.
 */

import { readlinkSync } from "node:fs";
import type { Exactness } from "../../../src/source/exactness.ts";
import type {
  LinkObserver,
  LinkRequest,
  LinkServer,
  OpenLink,
  Takeover,
} from "../../../src/supervisor/ports.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { SOCK_NONBLOCK, SOCK_STREAM, socketPair } from "../../../src/sys/libc/sockets.ts";
import { describeEnd, type LinkCounters, type LinkEnd } from "../../../src/worker-protocol/link-end.ts";

/** One `takeOver`. It may wait, report why, throw, or call `link.served()` and return. */
export type Taking = (
  link: FakeLink,
  signal: AbortSignal,
  waiting: (why: string) => void,
) => Promise<Takeover>;

/** Another worker takes the link over and finds this number of requests unanswered. */
export const takenOver =
  (unanswered = 0): Taking =>
  async (link) => {
    link.served();
    return { safe: true, unanswered };
  };

/** One link, from the worker's side. */
export class FakeLink implements OpenLink {
  readonly number: number;
  workerPid: number;
  readonly kernelFd: number;
  readonly request: LinkRequest;
  /** The kernel end's name in /proc/self/fd: unlike its number it is not used again. */
  readonly socket: string;
  counters: LinkCounters = { requests: 0, readBytes: 0, readErrors: 0 };
  /** Its worker ignores `close`. */
  hangs = false;
  /** How often a takeover was requested. */
  takeovers = 0;
  isQuiet = true;
  isUsed = false;
  exactness: Exactness | undefined;
  confirmations = 0;
  /** How long its requests took: any numbers. */
  latencies: number[] = [];
  readonly #observer: LinkObserver;
  readonly #taking: () => Taking;
  #serverFd: number | undefined;
  #hasWorker = true;
  #ended = false;

  constructor(number: number, request: LinkRequest, observer: LinkObserver, taking: () => Taking) {
    this.number = number;
    this.workerPid = 1000 + number;
    this.request = request;
    this.#observer = observer;
    this.#taking = taking;
    [this.kernelFd, this.#serverFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
    this.socket = readlinkSync(`/proc/self/fd/${this.kernelFd}`);
  }

  /** Whether a worker has the socket. */
  get isServed(): boolean {
    return this.isUp && this.#hasWorker;
  }

  /** Whether the socket is open, with a worker or without. */
  get isUp(): boolean {
    return this.#serverFd !== undefined;
  }

  /** Its worker dies; the socket stays open. */
  orphan(cause = `worker ${this.workerPid} was killed by SIGKILL`, silentMs = 0): void {
    this.#hasWorker = false;
    this.#observer.orphaned(cause, silentMs);
  }

  /** Another worker has the socket. */
  served(): void {
    this.#hasWorker = true;
    this.workerPid += 1000;
  }

  /** One living worker has handed it to another. */
  move(stallMs: number): void {
    this.workerPid += 1000;
    this.#observer.moved(this.workerPid, stallMs);
  }

  addLatenciesTo(total: number[]): void {
    this.latencies.forEach((value, at) => {
      total[at] = (total[at] ?? 0) + value;
    });
  }

  async takeOver(signal: AbortSignal, waiting: (why: string) => void): Promise<Takeover> {
    this.takeovers += 1;
    return this.#taking()(this, signal, waiting);
  }

  /** Socket and worker go together, and the exit is noticed. */
  kill(): void {
    this.hangUp();
    this.#tell(`worker ${this.workerPid} was killed by SIGKILL`, undefined);
  }

  /** The socket is closed without a message. */
  hangUp(): void {
    if (this.#serverFd !== undefined) close(this.#serverFd);
    this.#serverFd = undefined;
  }

  /** The worker ends the link and reports why. */
  end(end: LinkEnd): void {
    this.hangUp();
    this.#tell(`worker ${this.workerPid} ended the link: ${describeEnd(end)}`, end);
  }

  confirm(): void {
    this.isUsed = true;
    this.confirmations += 1;
  }

  /** A request has come over this link. */
  request1(): void {
    this.isUsed = true;
    this.counters = { ...this.counters, requests: this.counters.requests + 1 };
    if (this.counters.requests === 1) this.#observer.firstRequest();
  }

  readErrors(message: string, count: number): void {
    this.#observer.readErrors(message, count);
  }

  /** As a worker answers: once, and later than the call. Without a worker the socket is closed without a message. */
  close(): void {
    if (!this.isUp || this.hangs) return;
    this.hangUp();
    if (!this.#hasWorker) return;
    setImmediate(() => this.#tell("it was given up", { kind: "closed" }));
  }

  #tell(cause: string, end: LinkEnd | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#observer.ended(cause, end);
  }
}

/** What `openLink` does next: it opens a link, and may throw, wait, or kill the link that was opened. */
export type Opening = (link: () => FakeLink, signal: AbortSignal) => Promise<FakeLink>;

export class FakeLinkServer implements LinkServer {
  readonly links: FakeLink[] = [];
  /** What the next calls do, in order; afterwards links are just opened. */
  readonly plan: Opening[] = [];
  /** What calls do after the plan. */
  habit: Opening = async (link) => link();
  /** What the next takeovers do, in order; afterwards they succeed. */
  readonly takings: Taking[] = [];
  #next = 1;

  async openLink(request: LinkRequest, observer: LinkObserver, signal: AbortSignal): Promise<OpenLink> {
    const open = (): FakeLink => {
      return this.open(request, observer);
    };
    return await (this.plan.shift() ?? this.habit)(open, signal);
  }

  /** Opens a link at once, regardless of the plan. */
  open(request: LinkRequest, observer: LinkObserver): FakeLink {
    const taking = (): Taking => this.takings.shift() ?? takenOver();
    const link = new FakeLink(this.#next++, request, observer, taking);
    this.links.push(link);
    return link;
  }

  get last(): FakeLink {
    const link = this.links.at(-1);
    if (link === undefined) throw new Error("no link was opened yet");
    return link;
  }

  byKernelFd(fd: number): FakeLink {
    const link = this.links.findLast((one) => one.kernelFd === fd);
    if (link === undefined) throw new Error(`descriptor ${fd} is no link's kernel end`);
    return link;
  }

  /** Ends every worker: sockets that are open after that belong to the device. */
  dispose(): void {
    for (const link of this.links) link.hangUp();
  }
}
