/**
 * How replies leave a link that another worker may take over: so that a kill at any instant leaves no doubt.
 *
 * Small batches go in one send(2), of which a unix stream with enough room takes all or nothing; whether it did can
 * be told from the kernel's count of reads in flight. Everything else goes through the link's pipe, which outlives
 * the worker: it is filled first and emptied into the socket with splice(2), so that what it still holds is exactly
 * what has not left. Data of a file goes from the page cache into the pipe without a copy. The states are explained
 * in journal.ts.
 */
import type { Journal } from "../journal/journal.ts";
import { SIMPLE_REPLY_BYTES } from "../nbd/wire.ts";
import {
  type ExtentOwner,
  type FileExtent,
  readSteadily,
  SourceError,
  StaleReadError,
} from "../source/source.ts";
import { ERRNO, errnoName } from "../sys/errno.ts";
import {
  growPipe,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  read,
  send,
  sendBufferBytes,
  spliceFromFile,
  spliceToSocket,
  unreadBytes,
  unsentBytes,
  write,
} from "../sys/libc.ts";
import { type Replies, UnsentReplyError } from "./reply-queue.ts";

/**
 * What a unix stream socket takes whole or not at all, however full it is: af_unix.c fills one skb with up to 32 KiB
 * of page fragments and most of a page beside them, and asks only before each skb whether there is room. Eight
 * replies of 4 KiB.
 */
export const ATOMIC_BYTES: number = 8 * (4096 + SIMPLE_REPLY_BYTES);
/** A larger batch is several skbs: it is taken whole where there was room for all of them before the first. */
const BATCH_BYTES = 4 * ATOMIC_BYTES;
/** An skb takes more memory than its data, never twice as much. */
const MEMORY_PER_BYTE = 2;
/** Copying is dearer than splicing from here on. */
const FILE_MIN_BYTES = 32 * 1024;
/** A pipe grows to what a reply needs, up to the largest read of a device with usual settings. */
const MAX_PIPE_BYTES = 4 * 1024 * 1024;
const PAGE_BYTES = 4096;

/** Copied at once of a file whose pages may not leave by reference any more. */
const PIECE_BYTES = 256 * 1024;

/** The two ends of a link's pipe. */
export interface ReplyPipe {
  readonly readFd: number;
  readonly writeFd: number;
}

interface Job {
  readonly slots: readonly number[];
  readonly totalBytes: number;
  /** Puts bytes from `fromBytes` of the reply into the empty pipe; returns how many, or -errno. @throws SourceError */
  readonly fill: (fromBytes: number) => number;
  /** The source of a file's data, which is verified after each fill and whenever the reply has waited. */
  readonly owner: ExtentOwner | undefined;
  /** Pages of the file have entered the pipe by reference, or may have. */
  isShared: boolean;
}

export class JournaledReplies implements Replies {
  readonly batchBytes: number;
  readonly fileMinBytes: number = FILE_MIN_BYTES;
  readonly #fd: number;
  readonly #pipe: ReplyPipe;
  readonly #journal: Journal;
  /** Whether a doubt about a send can be settled by the kernel's count: else everything goes through the pipe. */
  readonly #counted: boolean;
  readonly #roomBytes: number;
  readonly #waiting: Job[] = [];
  #pipeBytes: number;
  #maxPipeBytes = MAX_PIPE_BYTES;
  #job: Job | undefined;
  #committedBytes = 0;
  #inPipeBytes = 0;
  /** Pages may lie in the socket by reference; a former worker may have put them there. */
  #socketShared = true;

  constructor(fd: number, pipe: ReplyPipe, journal: Journal, counted: boolean) {
    this.#fd = fd;
    this.#pipe = pipe;
    this.#journal = journal;
    this.#counted = counted;
    this.#roomBytes = sendBufferBytes(fd);
    this.#pipeBytes = growPipe(pipe.writeFd, BATCH_BYTES);
    this.batchBytes = Math.min(BATCH_BYTES, this.#pipeBytes);
  }

  get isEmpty(): boolean {
    return this.#job === undefined;
  }

  get sharesPages(): boolean {
    // A unix socket counts what it holds until the peer has read it.
    this.#socketShared &&= unsentBytes(this.#fd) > 0;
    return this.#socketShared || (this.#job?.isShared === true && this.#inPipeBytes > 0);
  }

  get needsFile(): boolean {
    return this.#job?.owner !== undefined || this.#waiting.some((job) => job.owner !== undefined);
  }

  sendBatch(bytes: Uint8Array, lengthBytes: number, slots: readonly number[]): number {
    if (this.#job !== undefined || !this.#isTakenWhole(lengthBytes))
      return this.#begin(this.#bytesJob(bytes.slice(0, lengthBytes), slots.slice()));
    for (const slot of slots) this.#journal.sending(slot);
    let sent = send(this.#fd, bytes, lengthBytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent === -ERRNO.EINTR) sent = send(this.#fd, bytes, lengthBytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent === -ERRNO.EAGAIN)
      return this.#begin(this.#bytesJob(bytes.slice(0, lengthBytes), slots.slice()));
    if (sent < 0) return sent;
    // Only for want of memory: rather a fresh link than a doubt that cannot be settled.
    if (sent !== lengthBytes) return -ERRNO.EIO;
    for (const slot of slots) this.#journal.answered(slot);
    this.#journal.measure(slots);
    return 0;
  }

  sendOwned(reply: Uint8Array, slot: number): number {
    if (reply.length > this.batchBytes) return this.#begin(this.#bytesJob(reply, [slot]));
    return this.sendBatch(reply, reply.length, [slot]);
  }

  sendFile(header: Uint8Array, extent: FileExtent, lengthBytes: number, slot: number): number {
    return this.#begin(this.#fileJob(header.slice(), extent, lengthBytes, slot));
  }

  flush(): number {
    if (this.#job?.owner !== undefined) this.#verifyWaiting(this.#job, this.#job.owner);
    return this.#send();
  }

  #send(): number {
    for (;;) {
      const job = this.#job;
      if (job === undefined) return 0;
      if (this.#inPipeBytes === 0) {
        if (this.#committedBytes === job.totalBytes) {
          this.#finish(job);
          continue;
        }
        const filled = this.#fill(job);
        if (filled <= 0) return filled === 0 ? -ERRNO.EIO : filled;
        this.#inPipeBytes = filled;
        this.#committedBytes += filled;
        this.#journal.filled(this.#committedBytes);
      }
      const sent = spliceToSocket(this.#pipe.readFd, this.#fd, this.#inPipeBytes);
      if (sent === -ERRNO.EAGAIN) return 0;
      if (sent === -ERRNO.EINTR) continue;
      if (sent <= 0) return sent === 0 ? -ERRNO.EIO : sent;
      this.#inPipeBytes -= sent;
      this.#socketShared ||= job.isShared;
      if (this.#inPipeBytes === 0 && this.#committedBytes < job.totalBytes)
        this.#journal.filling(this.#committedBytes, job.totalBytes);
    }
  }

  /**
   * Goes on with the replies that a former worker had in the pipe, or was putting there.
   * `rest` is the reply to the one request concerned, where part of it is not in the pipe yet.
   */
  resume(
    rest: { header: Uint8Array; data: FileExtent | Uint8Array; lengthBytes: number } | undefined,
  ): number {
    const batch = this.#journal.batch;
    if (batch.phase === "idle") return 0;
    const slots = this.#journal.slotsIn("sending");
    if (rest === undefined)
      this.#job = {
        slots,
        totalBytes: batch.totalBytes,
        fill: () => -ERRNO.EIO,
        owner: undefined,
        isShared: true,
      };
    else if (rest.data instanceof Uint8Array) this.#job = this.#bytesJob(rest.data, slots);
    else this.#job = this.#fileJob(rest.header, rest.data, rest.lengthBytes, slots[0] as number);
    // The former worker may have sent pages by reference.
    this.#job.isShared = true;
    this.#committedBytes = batch.committedBytes;
    this.#inPipeBytes = batch.phase === "filled" ? unreadBytes(this.#pipe.readFd) : 0;
    return this.#send();
  }

  /** Whether one send(2) of so many bytes can only be taken whole or not at all. */
  #isTakenWhole(lengthBytes: number): boolean {
    if (!this.#counted || lengthBytes > BATCH_BYTES) return false;
    // af_unix.c gives one skb at most half of the buffer, less a little.
    if (lengthBytes <= ATOMIC_BYTES) return lengthBytes <= this.#roomBytes / 2 - 64;
    return unsentBytes(this.#fd) + lengthBytes * MEMORY_PER_BYTE < this.#roomBytes;
  }

  /** A larger pipe for a larger reply, so that it goes through at once. */
  #makeRoom(totalBytes: number): void {
    const wanted = Math.min(totalBytes + PAGE_BYTES, this.#maxPipeBytes);
    if (wanted <= this.#pipeBytes) return;
    this.#pipeBytes = growPipe(this.#pipe.writeFd, wanted);
    // What is not to be had now will not be later.
    if (this.#pipeBytes < wanted) this.#maxPipeBytes = this.#pipeBytes;
  }

  #begin(job: Job): number {
    if (this.#job !== undefined) {
      this.#waiting.push(job);
      return 0;
    }
    this.#enter(job);
    try {
      return this.#send();
    } catch (error) {
      if (!(error instanceof SourceError) || this.#committedBytes > 0) throw error;
      this.#drop(job);
      throw new UnsentReplyError(error.message);
    }
  }

  #enter(job: Job): void {
    this.#job = job;
    this.#committedBytes = 0;
    this.#inPipeBytes = 0;
    this.#makeRoom(job.totalBytes);
    for (const slot of job.slots) this.#journal.sending(slot);
    this.#journal.filling(0, job.totalBytes);
  }

  #finish(job: Job): void {
    for (const slot of job.slots) this.#journal.answered(slot);
    this.#journal.idle();
    this.#journal.measure(job.slots);
    this.#job = undefined;
    const next = this.#waiting.shift();
    if (next !== undefined) this.#enter(next);
  }

  /**
   * Verifies a file whose data has waited for room in the socket. If the file was touched meanwhile and none of the
   * reply has left, the reply is read again. @throws SourceError
   */
  #verifyWaiting(job: Job, owner: ExtentOwner): void {
    try {
      owner.verify();
    } catch (error) {
      if (!(error instanceof StaleReadError) || this.#mayBelieveTouched(job)) throw error;
      error.renew();
      // Copies were verified when they were made.
      if (!job.isShared) return;
      // Before the pipe is emptied: a successor takes what is missing in a FILLED pipe as sent.
      this.#journal.filling(0, job.totalBytes);
      this.#emptyPipe();
      this.#committedBytes = 0;
      this.#inPipeBytes = 0;
      job.isShared = false;
    }
  }

  /** Fills the empty pipe and verifies the file; again if the file was touched meanwhile. @throws SourceError */
  #fill(job: Job): number {
    try {
      return this.#fillOnce(job);
    } catch (error) {
      if (!(error instanceof StaleReadError) || this.#mayBelieveTouched(job)) throw error;
      error.renew();
      return this.#fillAgain(job);
    }
  }

  #fillAgain(job: Job): number {
    let filled = 0;
    readSteadily(() => {
      this.#emptyPipe();
      job.isShared = false;
      filled = this.#fillOnce(job);
    });
    return filled;
  }

  /** The data has not left yet, however long reading it took. */
  #fillOnce(job: Job): number {
    const filled = job.fill(this.#committedBytes);
    job.owner?.verify();
    return filled;
  }

  /**
   * Whether the peer has read, or may read from the socket, pages of a touched file by reference: their contents may
   * have been those of a moment in between, so that only cutting the link keeps the peer from using them.
   */
  #mayBelieveTouched(job: Job): boolean {
    if (job.isShared && this.#committedBytes > this.#inPipeBytes) return true;
    this.#socketShared &&= unsentBytes(this.#fd) > 0;
    return this.#socketShared;
  }

  #emptyPipe(): void {
    const scrap = new Uint8Array(64 * 1024);
    while (read(this.#pipe.readFd, scrap, scrap.length) > 0);
  }

  /** Nothing of it has left: empties the pipe, so that an error can be the reply. */
  #drop(job: Job): void {
    this.#emptyPipe();
    for (const slot of job.slots) this.#journal.unsent(slot);
    this.#journal.idle();
    this.#job = undefined;
  }

  #bytesJob(bytes: Uint8Array, slots: readonly number[]): Job {
    const fill = (from: number): number =>
      write(this.#pipe.writeFd, bytes.subarray(from), bytes.length - from);
    return { slots, totalBytes: bytes.length, fill, owner: undefined, isShared: false };
  }

  #fileJob(header: Uint8Array, extent: FileExtent, lengthBytes: number, slot: number): Job {
    const fill = (from: number): number => {
      let put = 0;
      if (from === 0) {
        const headed = write(this.#pipe.writeFd, header, SIMPLE_REPLY_BYTES);
        if (headed !== SIMPLE_REPLY_BYTES) return headed < 0 ? headed : -ERRNO.EIO;
        put = headed;
      }
      const total = SIMPLE_REPLY_BYTES + lengthBytes;
      while (from + put < total) {
        const done = from + put - SIMPLE_REPLY_BYTES;
        const got = this.#putFile(job, extent, extent.offsetBytes + done, lengthBytes - done);
        if (got === -ERRNO.EAGAIN) break;
        if (got === -ERRNO.EINTR) continue;
        if (got === 0) throw new SourceError("cannot finish a reply: the file ended inside it");
        if (got < 0)
          throw new SourceError(`cannot finish a reply: reading the file failed: ${errnoName(-got)}`);
        put += got;
      }
      return put;
    };
    const totalBytes = SIMPLE_REPLY_BYTES + lengthBytes;
    const job: Job = { slots: [slot], totalBytes, fill, owner: extent.owner, isShared: false };
    return job;
  }

  /** Puts pages of a file into the pipe: themselves, or copies. Returns how many bytes, or -errno. @throws SourceError */
  #putFile(job: Job, { fd, owner }: FileExtent, offsetBytes: number, lengthBytes: number): number {
    if (owner.mayShare) {
      job.isShared = true;
      return spliceFromFile(fd, offsetBytes, this.#pipe.writeFd, lengthBytes);
    }
    const piece = new Uint8Array(Math.min(lengthBytes, PIECE_BYTES));
    void owner.read(piece, offsetBytes);
    return write(this.#pipe.writeFd, piece, piece.length);
  }
}
