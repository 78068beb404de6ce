/**
 * A link as the pool holds it: the manager's duplicates of its socket, its journal and its reply pipe.
 *
 * These outlive the link's worker, so the kernel does not notice when a worker dies. The pool gives the link to one
 * worker after another. `settle` brings the journal into a known state in between. Only this class writes its fields.
 */
import { rmSync } from "node:fs";
import type { Journal } from "../../journal/journal.ts";
import { mapJournal } from "../../journal/map-journal.ts";
import type { Settlement } from "../../journal/recovery.ts";
import type { LinkObserver, LinkRequest } from "../../supervisor/ports.ts";
import { close } from "../../sys/libc/files.ts";
import { unmapShared } from "../../sys/libc/memory.ts";
import { unsentBytes } from "../../sys/libc/sockets.ts";
import type { LinkCounters } from "../../worker-protocol/link-end.ts";
import type { ServedLinkDescription } from "../../worker-protocol/messages.ts";
import { CrashRecord } from "../policy/blame.ts";
import type { WorkerProcess } from "../worker-process.ts";
import type { JournalFile, LinkDescriptors } from "./link-descriptors.ts";
import { LinkLease } from "./link-lease.ts";
import { LinkOffer } from "./link-offer.ts";
import { LinkPipe } from "./link-pipe.ts";
import { RequestAges } from "./request-ages.ts";
import { settleLink, unreadRequests } from "./settle-link.ts";

/** Limit of a counter that a worker has written. The sum of many such counters still fits into a record. */
const MAX_COUNT = 2 ** 80;

export class HeldLink {
  readonly number: number;
  readonly request: LinkRequest;
  readonly observer: LinkObserver;
  /** Belongs to the caller that opened the link; not closed here. */
  readonly kernelFd: number;
  readonly crashes: CrashRecord = new CrashRecord();
  readonly lease: LinkLease;
  readonly offer: LinkOffer;
  readonly pipe: LinkPipe;
  readonly #journalPath: string;
  readonly #serverFd: number;
  readonly #journalFd: number;
  readonly #memory: ArrayBuffer;
  readonly #journal: Journal;
  readonly #ages = new RequestAges();
  #worker: WorkerProcess | undefined;
  #workerPid = 0;
  #refusal: string | undefined;
  #isMoving = false;
  #isConfirmed: boolean;
  #hasEnded = false;
  /** Its journal belongs to the link that follows. */
  #isSurrendered = false;
  /** How many calls of `settle` are running. */
  #settling = 0;
  /** Counters and latencies as of `close`, when the journal is unmapped. */
  #last: { readonly counters: LinkCounters; readonly latencies: readonly number[] } | undefined;

  /**
   * Takes over the descriptors, except `kernelFd`. `isConfirmed`: the kernel is known to have the socket.
   * @throws SystemError when the journal cannot be mapped; Error when it was made by another version
   */
  constructor(
    number: number,
    request: LinkRequest,
    observer: LinkObserver,
    descriptors: LinkDescriptors,
    journalPath: string,
    isConfirmed = false,
  ) {
    this.number = number;
    this.request = request;
    this.observer = observer;
    this.kernelFd = descriptors.kernelFd;
    this.lease = new LinkLease(request.image, descriptors.leaseFd);
    this.#serverFd = descriptors.serverFd;
    this.#journalFd = descriptors.journalFd;
    this.#journalPath = journalPath;
    this.#isConfirmed = isConfirmed;
    ({ memory: this.#memory, journal: this.#journal } = mapJournal(this.#journalFd));
    this.offer = new LinkOffer(this.#memory);
    this.pipe = new LinkPipe(descriptors.pipe, this.#journal);
  }

  /** The worker that serves the link, or is being asked to. */
  get worker(): WorkerProcess | undefined {
    return this.#worker;
  }

  /** The worker that serves the link or was the last to do so. */
  get workerPid(): number {
    return this.#workerPid;
  }

  /** Why the worker that was asked last has refused the link; undefined if it has not. */
  get refusal(): string | undefined {
    return this.#refusal;
  }

  /** A planned handover between two workers is running: if the old worker dies, the handover deals with it. */
  get isMoving(): boolean {
    return this.#isMoving;
  }

  /** The socket is dead: no worker can serve the link any more. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  get isOpen(): boolean {
    return this.#last === undefined;
  }

  /** Open, and its socket is alive. */
  get isServable(): boolean {
    return this.isOpen && !this.#hasEnded;
  }

  /** A worker is being asked to serve the link. */
  offerTo(worker: WorkerProcess): void {
    this.#worker = worker;
    this.#refusal = undefined;
    this.pipe.changeHands();
  }

  /** A worker has said why it does not take the link. */
  refuse(message: string): void {
    this.#refusal = message;
  }

  /** A worker serves the link. */
  assign(worker: WorkerProcess): void {
    this.#worker = worker;
    this.#workerPid = worker.pid;
  }

  /** This worker serves the link no longer. No effect if another worker has it by now. */
  unassign(worker: WorkerProcess): void {
    if (this.#worker === worker) this.#worker = undefined;
  }

  /** Its worker has reported that the socket is dead. */
  end(): void {
    this.#worker = undefined;
    this.#hasEnded = true;
  }

  /** The kernel has the socket. The worker keeps this for the next manager. */
  confirm(): void {
    this.#isConfirmed = true;
    this.#worker?.post({ type: "confirm", link: this.number });
  }

  /** Marks the link as moving while a planned handover runs. */
  async whileMoving<T>(handover: () => Promise<T>): Promise<T> {
    this.#isMoving = true;
    try {
      return await handover();
    } finally {
      this.#isMoving = false;
    }
  }

  get counters(): Readonly<LinkCounters> {
    if (this.#last !== undefined) return this.#last.counters;
    const { requests, readBytes, readErrors } = this.#journal;
    return {
      requests: clampCount(requests),
      readBytes: clampCount(readBytes),
      readErrors: clampCount(readErrors),
    };
  }

  /** Whether the worker is executing code of this link; see Journal. */
  get isBusy(): boolean {
    return this.isOpen && this.#journal.busy;
  }

  /** Whether a request, received or not, waits for its answer. */
  get isWaiting(): boolean {
    return this.isOpen && (this.#journal.hasUnanswered || this.#unread > 0);
  }

  /** Whether the kernel certainly has the socket: this was confirmed, or a request has arrived. */
  get isUsed(): boolean {
    return this.#isConfirmed || this.counters.requests > 0 || this.isWaiting;
  }

  /** Whether nothing is unread, unanswered or unsent on it. */
  get isQuiet(): boolean {
    return this.isOpen && !this.isWaiting && unsentBytes(this.#serverFd) === 0;
  }

  /** Adds the latencies of its requests, by bucket (journal/latency.ts), to a total. */
  addLatenciesTo(total: number[]): void {
    if (this.#last === undefined) return this.#journal.addLatenciesTo(total);
    this.#last.latencies.forEach((value, at) => {
      total[at] = (total[at] ?? 0) + value;
    });
  }

  /** Samples how long requests have waited; called at every tick. */
  noteAges(nowMs: number, isWaiting: boolean = this.isWaiting): void {
    if (isWaiting) this.#ages.note(nowMs, this.#journal, this.#unread);
    else this.#ages.clear();
  }

  /** Age of the oldest waiting request according to the samples; 0 if none waits. */
  oldestAgeMs(nowMs: number): number {
    return this.isOpen ? this.#ages.oldestMs(nowMs) : 0;
  }

  describe(): ServedLinkDescription {
    const { image, copyOnly, device, linkIndex, counted } = this.request;
    return {
      link: this.number,
      device,
      slot: linkIndex,
      source: image.spec,
      blockSizeBytes: image.blockSizeBytes,
      copyOnly,
      counted,
      confirmed: this.#isConfirmed,
      lease: this.lease.state,
    };
  }

  /** In the order of LINK_FDS, followed by the lease's if there is one. They stay open here. */
  get descriptors(): number[] {
    const ends = [this.#serverFd, this.request.image.fd, this.#journalFd, ...this.pipe.ends, this.kernelFd];
    return this.lease.fd === undefined ? ends : [...ends, this.lease.fd];
  }

  /** Reconciles the journal with the kernel while no worker has the link: it then lists exactly what is left to do. */
  async settle(): Promise<Settlement> {
    if (!this.isServable) return SOCKET_ENDED;
    this.#settling += 1;
    const settling = settleLink(this.#journal, this.#serverFd, this.pipe.ends[0], this.request);
    const settlement = await settling.finally(() => {
      this.#settling -= 1;
      if (!this.isOpen && this.#settling === 0) this.#release();
    });
    if (!this.isServable) return SOCKET_ENDED;
    if (!settlement.safe) return settlement;
    // The pipe's content is sent as it is. It refers to pages of the image, which must not have changed meanwhile.
    if (!settlement.freshPipe && !this.lease.protects(this.#journal.leaseSeenAtMs))
      return { safe: false, why: "the image was not protected by a lease while a reply was in the pipe" };
    // A new pipe, not an emptied one: a worker that is stuck in the kernel may still write into the old one.
    if (settlement.freshPipe) this.pipe.renew();
    return { ...settlement, unanswered: settlement.unanswered + this.#unread };
  }

  /**
   * Closes a dead link, and returns its journal for the link that follows it, where no other can be had. Undefined
   * while a worker may still write into it.
   */
  surrenderJournal(): JournalFile | undefined {
    if (!this.isOpen || this.#worker !== undefined || this.#settling > 0) return undefined;
    this.#isSurrendered = true;
    this.close();
    return { fd: this.#journalFd, path: this.#journalPath };
  }

  /** Releases everything except the kernel end; counters keep their values. Idempotent. */
  close(): void {
    if (!this.isOpen) return;
    const latencies: number[] = [];
    this.addLatenciesTo(latencies);
    this.#last = { counters: this.counters, latencies };
    this.lease.drop();
    this.offer.end();
    if (!this.#isSurrendered) rmSync(this.#journalPath, { force: true });
    // A running `settle` still reads the mapping.
    if (this.#settling === 0) this.#release();
  }

  /** For a link that was never handed out: its kernel end has no other owner. */
  closeKernelEnd(): void {
    close(this.kernelFd);
  }

  #release(): void {
    this.pipe.close();
    unmapShared(this.#memory);
    close(this.#serverFd);
    if (!this.#isSurrendered) close(this.#journalFd);
  }

  get #unread(): number {
    return unreadRequests(this.#serverFd);
  }
}

const SOCKET_ENDED: Settlement = { safe: false, why: "its socket has ended meanwhile" };

/** Workers can write any value into a journal; sums and records need a sane one. */
const clampCount = (count: number): number => (count >= 0 ? Math.min(count, MAX_COUNT) : 0);
