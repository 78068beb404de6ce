/**
 * Replies of a link that another worker can take over: a kill at any instant leaves no doubt about what has left.
 *
 * A small batch leaves in one send(2), of which a unix stream socket with enough room takes all or nothing; the
 * kernel's count of reads in flight tells which. Everything else goes through the link's pipe, which outlives the
 * worker: it is filled first and then emptied into the socket with splice(2), so that it holds exactly what has not
 * left. Data of a file goes from the page cache into the pipe without a copy. journal/layout.ts explains the states.
 */
import type { Journal } from "../../journal/journal.ts";
import { BASE_PIPE_BYTES } from "../../journal/layout.ts";
import { SIMPLE_REPLY_BYTES } from "../../nbd/wire.ts";
import {
  type ExtentOwner,
  type FileExtent,
  readSteadily,
  SourceError,
  StaleReadError,
} from "../../source/source.ts";
import { ERRNO } from "../../sys/errno.ts";
import { close } from "../../sys/libc/files.ts";
import { spliceToSocket } from "../../sys/libc/pipes.ts";
import {
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  send,
  sendBufferBytes,
  unreadBytes,
  unsentBytes,
} from "../../sys/libc/sockets.ts";
import { PipeCapacity } from "./pipe-capacity.ts";
import { bytesJob, emptyPipe, fileJob, leftoverJob, type PipeJob, type ReplyPipe } from "./pipe-job.ts";
import { type Replies, UnsentReplyError } from "./replies.ts";

/**
 * A unix stream socket takes this much whole or not at all, however full it is: af_unix.c fills one skb with up to
 * 32 KiB of page fragments and most of a page beside them, and asks for room only before each skb. Eight replies of
 * 4 KiB.
 */
export const ATOMIC_BYTES: number = 8 * (4096 + SIMPLE_REPLY_BYTES);
/** A larger batch takes several skbs. It is taken whole if there was room for all of them before the first. */
const BATCH_BYTES = 4 * ATOMIC_BYTES;
/** An skb takes more memory than its data, but never twice as much. */
const MEMORY_PER_BYTE = 2;
/** From this size on splicing costs less than copying. */
const FILE_MIN_BYTES = 32 * 1024;

export class JournaledReplies implements Replies {
  readonly batchBytes: number;
  readonly fileMinBytes: number = FILE_MIN_BYTES;
  readonly #fd: number;
  readonly #pipe: ReplyPipe;
  readonly #journal: Journal;
  readonly #capacity: PipeCapacity;
  /** The kernel's count can settle whether a send has happened. If it cannot, everything goes through the pipe. */
  readonly #counted: boolean;
  readonly #roomBytes: number;
  readonly #waiting: PipeJob[] = [];
  #job: PipeJob | undefined;
  /** Bytes of the job that have been put into the pipe, and those of them that have not left it. */
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
    this.#capacity = new PipeCapacity(pipe.writeFd, journal);
    this.batchBytes = Math.min(BASE_PIPE_BYTES, this.#capacity.bytes);
  }

  get isEmpty(): boolean {
    return this.#job === undefined;
  }

  get sharesPages(): boolean {
    return this.#socketSharesPages() || (this.#job?.isShared === true && this.#inPipeBytes > 0);
  }

  get needsFile(): boolean {
    return this.#job?.owner !== undefined || this.#waiting.some((job) => job.owner !== undefined);
  }

  sendBatch(bytes: Uint8Array, lengthBytes: number, entries: readonly number[]): number {
    if (this.#job !== undefined || !this.#isTakenWhole(lengthBytes))
      return this.#begin(bytesJob(this.#pipe, bytes.slice(0, lengthBytes), entries.slice()));
    for (const entry of entries) this.#journal.sending(entry);
    let sent = send(this.#fd, bytes, lengthBytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent === -ERRNO.EINTR) sent = send(this.#fd, bytes, lengthBytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent === -ERRNO.EAGAIN)
      return this.#begin(bytesJob(this.#pipe, bytes.slice(0, lengthBytes), entries.slice()));
    if (sent < 0) return sent;
    // Happens only when memory is short. A fresh link is better than a doubt that cannot be settled.
    if (sent !== lengthBytes) return -ERRNO.EIO;
    for (const entry of entries) this.#journal.answered(entry);
    this.#journal.measure(entries);
    return 0;
  }

  sendOwned(reply: Uint8Array, entry: number): number {
    if (reply.length > BATCH_BYTES) return this.#begin(bytesJob(this.#pipe, reply, [entry]));
    return this.sendBatch(reply, reply.length, [entry]);
  }

  sendFile(header: Uint8Array, extent: FileExtent, lengthBytes: number, entry: number): number {
    return this.#begin(fileJob(this.#pipe, header.slice(), extent, lengthBytes, entry));
  }

  flush(): number {
    if (this.#job?.owner !== undefined) this.#verifyWaiting(this.#job, this.#job.owner);
    return this.#sendJobs();
  }

  /**
   * Goes on with the replies that a former worker had in the pipe, or was putting there. `rest` is the reply to the one
   * request concerned, if a part of it is not in the pipe yet.
   */
  resume(
    rest: { header: Uint8Array; data: FileExtent | Uint8Array; lengthBytes: number } | undefined,
  ): number {
    const { batch } = this.#journal;
    if (batch.phase === "idle") return 0;
    const entries = this.#journal.entriesIn("sending");
    const pipe = this.#pipe;
    let job: PipeJob;
    if (rest === undefined) job = leftoverJob(entries, batch.totalBytes);
    else if (rest.data instanceof Uint8Array) job = bytesJob(pipe, rest.data, entries);
    else job = fileJob(pipe, rest.header, rest.data, rest.lengthBytes, entries[0] as number);
    // The former worker may have sent pages by reference.
    job.isShared = true;
    this.#job = job;
    this.#committedBytes = batch.committedBytes;
    this.#inPipeBytes = batch.phase === "filled" ? unreadBytes(pipe.readFd) : 0;
    return this.#sendJobs();
  }

  close(): void {
    close(this.#pipe.readFd);
    close(this.#pipe.writeFd);
  }

  /** Whether one send(2) of so many bytes is taken whole or not at all. */
  #isTakenWhole(lengthBytes: number): boolean {
    if (!this.#counted || lengthBytes > BATCH_BYTES) return false;
    // af_unix.c gives one skb at most half of the buffer, less a little.
    if (lengthBytes <= ATOMIC_BYTES) return lengthBytes <= this.#roomBytes / 2 - 64;
    return unsentBytes(this.#fd) + lengthBytes * MEMORY_PER_BYTE < this.#roomBytes;
  }

  #begin(job: PipeJob): number {
    if (this.#job !== undefined) {
      this.#waiting.push(job);
      return 0;
    }
    this.#enter(job);
    try {
      return this.#sendJobs();
    } catch (error) {
      if (!(error instanceof SourceError) || this.#committedBytes > 0) throw error;
      this.#drop(job);
      throw new UnsentReplyError(error.message);
    }
  }

  #enter(job: PipeJob): void {
    this.#job = job;
    this.#committedBytes = 0;
    this.#inPipeBytes = 0;
    this.#capacity.need(job.totalBytes);
    for (const entry of job.entries) this.#journal.sending(entry);
    this.#journal.filling(0, job.totalBytes);
  }

  /** Fills the pipe and empties it into the socket, in turn, until the socket is full or no job is left. */
  #sendJobs(): number {
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

  #finish(job: PipeJob): void {
    for (const entry of job.entries) this.#journal.answered(entry);
    this.#journal.idle();
    this.#journal.measure(job.entries);
    this.#job = undefined;
    const next = this.#waiting.shift();
    if (next !== undefined) this.#enter(next);
  }

  /** Fills the empty pipe and verifies the file; once more if the file was touched meanwhile. @throws SourceError */
  #fill(job: PipeJob): number {
    try {
      return this.#fillOnce(job);
    } catch (error) {
      if (!(error instanceof StaleReadError) || this.#hasExposedPages(job)) throw error;
      error.renew();
      return this.#fillAgain(job);
    }
  }

  #fillAgain(job: PipeJob): number {
    let filled = 0;
    readSteadily(() => {
      emptyPipe(this.#pipe);
      job.isShared = false;
      filled = this.#fillOnce(job);
    });
    return filled;
  }

  /** The data has not left yet, however long reading it took. */
  #fillOnce(job: PipeJob): number {
    const filled = job.fill(this.#committedBytes, this.#capacity.pages);
    job.owner?.verify();
    return filled;
  }

  /**
   * Verifies a file whose data has waited for room in the socket. If the file was touched meanwhile and no part of the
   * reply has left, the reply is read again. @throws SourceError
   */
  #verifyWaiting(job: PipeJob, owner: ExtentOwner): void {
    try {
      owner.verify();
    } catch (error) {
      if (!(error instanceof StaleReadError) || this.#hasExposedPages(job)) throw error;
      error.renew();
      // Copies were verified when they were made.
      if (!job.isShared) return;
      // Before the pipe is emptied: a successor takes what is missing in a FILLED pipe as sent.
      this.#journal.filling(0, job.totalBytes);
      emptyPipe(this.#pipe);
      this.#committedBytes = 0;
      this.#inPipeBytes = 0;
      job.isShared = false;
    }
  }

  /**
   * Whether the peer has read, or may read from the socket, pages of the file by reference. If the file is touched,
   * their contents may have been different for a moment: only cutting the link keeps the peer from using them.
   */
  #hasExposedPages(job: PipeJob): boolean {
    return (job.isShared && this.#committedBytes > this.#inPipeBytes) || this.#socketSharesPages();
  }

  #socketSharesPages(): boolean {
    // A unix socket counts what it holds until the peer has read it.
    this.#socketShared &&= unsentBytes(this.#fd) > 0;
    return this.#socketShared;
  }

  /** Gives up a job of which nothing has left, so that an error can be the reply. */
  #drop(job: PipeJob): void {
    emptyPipe(this.#pipe);
    for (const entry of job.entries) this.#journal.unsent(entry);
    this.#journal.idle();
    this.#job = undefined;
  }
}
