/**
 * A LinkServer without workers: real socketpairs, so that hang-ups are real, and a test that decides what happens.
 *
 * A link can be killed (its socket closes and its worker's exit is told), hung up in silence, or ended in words.
 */
import { readlinkSync } from "node:fs";
import type { LinkObserver, LinkRequest, LinkServer, OpenLink } from "../../../src/supervisor/ports.ts";
import { close, SOCK_NONBLOCK, SOCK_STREAM, socketPair } from "../../../src/sys/libc.ts";
import { describeEnd, type LinkCounters, type LinkEnd } from "../../../src/worker/link-end.ts";

/** One link, from the worker's side. */
export class FakeLink implements OpenLink {
  readonly number: number;
  readonly workerPid: number;
  readonly kernelFd: number;
  readonly request: LinkRequest;
  /** The kernel end's name in /proc/self/fd: unlike its number it is not used again. */
  readonly socket: string;
  counters: LinkCounters = { requests: 0, readBytes: 0, readErrors: 0 };
  /** Its worker does not react to being told to close. */
  hangs = false;
  readonly #observer: LinkObserver;
  #serverFd: number | undefined;
  #ended = false;

  constructor(number: number, request: LinkRequest, observer: LinkObserver) {
    this.number = number;
    this.workerPid = 1000 + number;
    this.request = request;
    this.#observer = observer;
    [this.kernelFd, this.#serverFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
    this.socket = readlinkSync(`/proc/self/fd/${this.kernelFd}`);
  }

  /** Whether its worker still has the socket. */
  get isServed(): boolean {
    return this.#serverFd !== undefined;
  }

  /** The worker is killed: the socket goes, and its exit is noticed. */
  kill(): void {
    this.hangUp();
    this.#tell(`worker ${this.workerPid} was killed by SIGKILL`, undefined);
  }

  /** The socket goes; nobody says a word. */
  hangUp(): void {
    if (this.#serverFd !== undefined) close(this.#serverFd);
    this.#serverFd = undefined;
  }

  /** The worker ends the link and says why. */
  end(end: LinkEnd): void {
    this.hangUp();
    this.#tell(`worker ${this.workerPid} ended the link: ${describeEnd(end)}`, end);
  }

  /** A request has come over this link. */
  request1(): void {
    this.counters = { ...this.counters, requests: this.counters.requests + 1 };
    if (this.counters.requests === 1) this.#observer.firstRequest();
  }

  readErrors(message: string, count: number): void {
    this.#observer.readErrors(message, count);
  }

  /** As a worker answers: once, and later than the call. */
  close(): void {
    if (!this.isServed || this.hangs) return;
    this.hangUp();
    setImmediate(() => this.#tell("it was given up", { kind: "closed" }));
  }

  #tell(cause: string, end: LinkEnd | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#observer.ended(cause, end);
  }
}

/** What `openLink` does next: opens a link, after whatever this does. It may throw, wait, or kill what was opened. */
export type Opening = (link: () => FakeLink, signal: AbortSignal) => Promise<FakeLink>;

export class FakeLinkServer implements LinkServer {
  readonly links: FakeLink[] = [];
  /** What the next calls do, in order; afterwards links are just opened. */
  readonly plan: Opening[] = [];
  /** What calls do when the plan is over. */
  habit: Opening = async (link) => link();
  #next = 1;

  async openLink(request: LinkRequest, observer: LinkObserver, signal: AbortSignal): Promise<OpenLink> {
    const open = (): FakeLink => {
      const link = new FakeLink(this.#next++, request, observer);
      this.links.push(link);
      return link;
    };
    return await (this.plan.shift() ?? this.habit)(open, signal);
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

  /** Ends every worker: what is open after that, the supervisor has. */
  dispose(): void {
    for (const link of this.links) link.hangUp();
  }
}
