/**
 * What of a link outlives its worker: the manager's duplicates of its socket, its journal and its pipe.
 *
 * As long as these are open the kernel notices nothing when a worker dies. The pool gives them to one worker after
 * another; what a dead one left is settled here, before the next one gets it.
 */
import { closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Sample } from "../journal/account.ts";
import { JOURNAL_BYTES, Journal, wholeRequests } from "../journal/journal.ts";
import { type Settlement, settle } from "../journal/recovery.ts";
import type { LinkObserver, LinkRequest } from "../supervisor/ports.ts";
import {
  allocateFile,
  close,
  growSendBuffer,
  mapShared,
  pipe,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  socketPair,
  unmapShared,
  unreadBytes,
  unsentBytes,
} from "../sys/libc.ts";
import type { LinkCounters } from "../worker-protocol/link-end.ts";
import { SEND_BUFFER_BYTES, type ServedLinkDescription } from "../worker-protocol/messages.ts";
import { LinkTrouble } from "./blame.ts";
import { LinkLease } from "./link-lease.ts";
import { RequestAges } from "./request-ages.ts";
import type { WorkerProcess } from "./worker-process.ts";

/** Many of these can be added up, and the sum is still a number that a record may hold. */
const MAX_COUNT = 2 ** 80;
/** How long a death's books may take to stand still. */
const SETTLE_PATIENCE_MS = 1000;

/** Descriptors of a link, all close-on-exec. */
export interface LinkDescriptors {
  readonly serverFd: number;
  readonly kernelFd: number;
  readonly journalFd: number;
  readonly pipe: readonly [number, number];
  /** A description of the image with a read lease on it, where its worker has one. */
  readonly leaseFd?: number | undefined;
}

export class HeldLink {
  readonly number: number;
  readonly request: LinkRequest;
  readonly observer: LinkObserver;
  /** Given to whoever opened the link; not closed here. */
  readonly kernelFd: number;
  readonly trouble: LinkTrouble = new LinkTrouble();
  readonly lease: LinkLease;
  /** Who serves it. */
  worker: WorkerProcess | undefined;
  workerPid = 0;
  /** Between two workers by plan: the one that gives it up may die without anybody else having to act. */
  isMoving = false;
  /** The kernel has its socket for certain. */
  confirmed = false;
  /** Why a worker did not take it, when that is the last thing that was heard of it. */
  refusal: string | undefined;
  /** Its socket is dead: nobody can go on with it. */
  hasEnded = false;
  readonly #journalPath: string;
  readonly #serverFd: number;
  readonly #journalFd: number;
  readonly #memory: ArrayBuffer;
  readonly #journal: Journal;
  readonly #ages = new RequestAges();
  #lastLatencies: readonly number[] = [];
  #pipe: readonly [number, number];
  #settling = 0;
  #last: LinkCounters | undefined;

  /** Takes the descriptors over, but for `kernelFd`. @throws SystemError when the journal cannot be mapped */
  constructor(
    number: number,
    request: LinkRequest,
    observer: LinkObserver,
    descriptors: LinkDescriptors,
    journalPath: string,
  ) {
    this.number = number;
    this.request = request;
    this.observer = observer;
    this.kernelFd = descriptors.kernelFd;
    this.lease = new LinkLease(request.image, descriptors.leaseFd);
    this.#serverFd = descriptors.serverFd;
    this.#journalFd = descriptors.journalFd;
    this.#pipe = descriptors.pipe;
    this.#journalPath = journalPath;
    this.#memory = mapShared(this.#journalFd, JOURNAL_BYTES);
    this.#journal = new Journal(this.#memory);
  }

  get isOpen(): boolean {
    return this.#last === undefined;
  }

  get counters(): Readonly<LinkCounters> {
    if (this.#last !== undefined) return this.#last;
    const { requests, readBytes, readErrors } = this.#journal;
    return {
      requests: clampCount(requests),
      readBytes: clampCount(readBytes),
      readErrors: clampCount(readErrors),
    };
  }

  /** Whether the worker is inside this link's code; see Journal. */
  get isBusy(): boolean {
    return this.isOpen && this.#journal.busy;
  }

  /** Whether a request waits for an answer, received or not. */
  get isWaiting(): boolean {
    return this.isOpen && (this.#journal.hasUnanswered || this.#unread > 0);
  }

  /** Whether the kernel surely uses it: it was said so, or a request has come over it. */
  get isUsed(): boolean {
    return this.confirmed || this.counters.requests > 0 || this.isWaiting;
  }

  /** Adds what its requests took, by bucket (journal/latency.ts), to a total. */
  addLatenciesTo(total: number[]): void {
    if (this.isOpen) return this.#journal.addLatenciesTo(total);
    this.#lastLatencies.forEach((value, at) => {
      total[at] = (total[at] ?? 0) + value;
    });
  }

  /** Looks how long requests have waited, as `isWaiting` is looked at; to be called again and again. */
  noteAges(nowMs: number, isWaiting: boolean = this.isWaiting): void {
    if (isWaiting) this.#ages.note(nowMs, this.#journal, this.#unread);
    else this.#ages.clear();
  }

  /** For how long its oldest request has waited, as far as the looks at it tell; 0 where none waits. */
  oldestAgeMs(nowMs: number): number {
    return this.isOpen ? this.#ages.oldestMs(nowMs) : 0;
  }

  /** Whether nothing is unread, unanswered or unsent on it. */
  get isQuiet(): boolean {
    return this.isOpen && !this.isWaiting && unsentBytes(this.#serverFd) === 0;
  }

  describe(): ServedLinkDescription {
    const { image, copyOnly, device, slot, counted } = this.request;
    return {
      link: this.number,
      device,
      slot,
      source: image.spec,
      blockSizeBytes: image.blockSizeBytes,
      copyOnly,
      counted,
      confirmed: this.confirmed,
      lease: this.lease.state,
    };
  }

  /** In the order of LINK_FDS, and the lease's where there is one; all stay ours. */
  get descriptors(): number[] {
    const ends = [this.#serverFd, this.request.image.fd, this.#journalFd, ...this.#pipe, this.kernelFd];
    return this.lease.fd === undefined ? ends : [...ends, this.lease.fd];
  }

  /** Makes the journal say exactly what is left to do, while no worker has the link. */
  async settle(): Promise<Settlement> {
    if (!this.isOpen || this.hasEnded) return { safe: false, why: "its socket has ended meanwhile" };
    const witness = {
      counted: this.request.counted,
      pipeBytes: () => unreadBytes(this.#pipe[0]),
      sample: () => this.#sample(),
    };
    this.#settling += 1;
    const settlement = await settle(this.#journal, witness, SETTLE_PATIENCE_MS).finally(() => {
      this.#settling -= 1;
      if (!this.isOpen && this.#settling === 0) this.#release();
    });
    if (!this.isOpen || this.hasEnded) return { safe: false, why: "its socket has ended meanwhile" };
    if (!settlement.safe) return settlement;
    // What is in the pipe leaves as it is: pages of the image itself must be what they were.
    if (!settlement.freshPipe && !this.lease.protects(this.#journal.leaseSeenAtMs))
      return { safe: false, why: "its image was unprotected while a reply was on its way" };
    // A fresh pipe rather than an emptied one: a worker that is stuck in the kernel may still put something into it.
    if (settlement.freshPipe) {
      for (const fd of this.#pipe) close(fd);
      this.#pipe = pipe();
    }
    return { ...settlement, unanswered: settlement.unanswered + this.#unread };
  }

  /** Lets go of everything but the kernel end; counters stay as they are. Idempotent. */
  close(): void {
    if (!this.isOpen) return;
    const latencies: number[] = [];
    this.addLatenciesTo(latencies);
    this.#lastLatencies = latencies;
    this.#last = this.counters;
    this.lease.drop();
    rmSync(this.#journalPath, { force: true });
    // Whoever is settling it still looks at the memory.
    if (this.#settling === 0) this.#release();
  }

  #release(): void {
    unmapShared(this.#memory);
    for (const fd of [this.#serverFd, this.#journalFd, ...this.#pipe]) close(fd);
  }

  get #unread(): number {
    return wholeRequests(unreadBytes(this.#serverFd));
  }

  /** Unread requests first, then what is in flight: see account.ts. */
  #sample(): Sample | undefined {
    const unread = this.#unread;
    const inFlight = this.request.inFlight();
    if (inFlight === undefined) return undefined;
    return { inFlight, unread, allRead: unsentBytes(this.#serverFd) === 0 };
  }
}

/** The journal is the worker's to write, and what it says goes into sums and records. */
const clampCount = (count: number): number => (count >= 0 ? Math.min(count, MAX_COUNT) : 0);

/** A link that nobody serves yet. @throws SystemError, or an error of the file system when the journal cannot be made */
export function createLink(
  number: number,
  request: LinkRequest,
  observer: LinkObserver,
  directory: string,
): HeldLink {
  const path = journalPath(directory, request);
  const open: number[] = [];
  try {
    const journalFd = openSync(path, "wx+", 0o600);
    open.push(journalFd);
    allocateFile(journalFd, JOURNAL_BYTES);
    const ends = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
    open.push(...ends);
    const reply = pipe();
    open.push(...reply);
    const [kernelFd, serverFd] = ends;
    growSendBuffer(serverFd, SEND_BUFFER_BYTES);
    return new HeldLink(number, request, observer, { kernelFd, serverFd, journalFd, pipe: reply }, path);
  } catch (error) {
    for (const fd of open) closeSync(fd);
    rmSync(path, { force: true });
    throw error;
  }
}

/** The next link of a slot gets another file: a worker that was told to let go of the last one may not have done so yet. */
let generation = 0;

export function journalPath(
  directory: string,
  { device, slot }: Pick<LinkRequest, "device" | "slot">,
): string {
  generation += 1;
  return join(directory, `${device}.${slot}.${process.pid}-${generation}.journal`);
}

/** For a link that nobody was given. */
export function closeKernelEnd(link: HeldLink): void {
  close(link.kernelFd);
}
