/**
 * The read-serving loop: a request from socket to reply, top to bottom, without leaving this file.
 *
 *   socket ─recv─► inbox ─framer─► request ─check─► source ─► outbox ─send─► socket
 *
 * One `ServedLink` per socket; all of a process share one outbox and one pump, on one thread. A link neither knows
 * nor cares whether its socket is a device's first, taken over from another worker or a fresh one after a failure:
 * what is left to do lies in its journal. What one `recv` brought in is answered in as few sends as possible. Large
 * reads of a local file that cannot change go straight from the page cache; if the file fails when part of a reply
 * has left already, the link is cut so that the kernel asks again.
 */

import type { Journal } from "../journal/journal.ts";
import { NbdProtocolError } from "../nbd/protocol-error.ts";
import { checkRequest, MAX_REQUEST_BYTES, PAYLOAD_TOO_LONG, payloadBytes } from "../nbd/request-check.ts";
import { RequestFramer } from "../nbd/request-framer.ts";
import {
  encodeReplyInto,
  NBD_CMD_DISC,
  NBD_CMD_READ,
  NBD_EIO,
  type NbdRequest,
  newRequest,
  SIMPLE_REPLY_BYTES,
} from "../nbd/wire.ts";
import { type FileExtent, readSteadily, type Source, SourceError, StaleReadError } from "../source/source.ts";
import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT } from "../sys/epoll.ts";
import { ERRNO, errnoName, SystemError } from "../sys/errno.ts";
import { close, duplicate, growSendBuffer, MSG_DONTWAIT, recv, SHUT_RDWR, shutdown } from "../sys/libc.ts";
import { type LinkCounters, type LinkEnd, NO_COUNTERS } from "../worker-protocol/link-end.ts";
import { SEND_BUFFER_BYTES } from "../worker-protocol/messages.ts";
import { JournaledReplies, type ReplyPipe } from "./journaled-replies.ts";
import type { Pollable, Pump } from "./pump.ts";
import { type Replies, ReplyQueue, UnsentReplyError } from "./reply-queue.ts";

/** The kernel has a few hundred requests of 28 bytes on a link at most; the rest is for payloads to skip. */
const INBOX_BYTES = 16 * 1024;
/** Replies gathered before a send, at most. A larger reply that has to be copied gets a buffer of its own. */
export const OUTBOX_BYTES: number = 256 * 1024;
/** One busy link must not keep the others waiting: after so many receives it is their turn. */
const MAX_RECEIVES = 8;
/** What asynchronous reads of one link may hold in memory at once. */
export const MAX_ASYNC_BYTES: number = 2 * MAX_REQUEST_BYTES;

export interface LinkOptions {
  readonly source: Source;
  /** Never send from the page cache: set on the link that follows one which was cut inside a reply. */
  readonly copyOnly?: boolean;
  /** What makes a takeover possible; without it the link dies with its worker. */
  readonly journal?: JournaledLink;
}

export interface JournaledLink {
  readonly journal: Journal;
  /** Belongs to the link from now on. */
  readonly pipe: ReplyPipe;
  /** See JournaledReplies. */
  readonly counted: boolean;
}

/** Where requests come in: a journal, or a framer for peers whose requests come in any split. */
type Intake = Pick<RequestFramer, "inbox" | "receiveAt" | "space" | "received" | "next" | "skip">;

export interface LinkEvents {
  /** The first request has arrived: proof that the peer uses this socket. */
  firstRequest?(): void;
  /** A read was answered with an error, for this reason. */
  readError?(error: Error): void;
  /** The socket is closed by now. Called exactly once. */
  end(end: LinkEnd): void;
}

/** Shared by all links of the process: filled and emptied within one wake-up of one link. */
const outbox = new Uint8Array(OUTBOX_BYTES);
const head = new Uint8Array(SIMPLE_REPLY_BYTES);
const request: NbdRequest = newRequest();

/** A buffer for the next large reply, which costs three times as much in fresh memory. */
let spare: Uint8Array = new Uint8Array(0);
const MAX_SPARE_BYTES = 2 * 1024 * 1024;

/** Not zeroed: all of it is filled, or it is not sent. Belongs to the caller, who may make it the spare one again. */
function takeSpare(lengthBytes: number): Uint8Array {
  const buffer = spare.length >= lengthBytes ? spare : Buffer.allocUnsafeSlow(lengthBytes);
  spare = new Uint8Array(0);
  return buffer;
}

/** Keeps a buffer that nothing refers to any more, for the next large reply. */
function keepSpare(buffer: Uint8Array): void {
  if (buffer.length <= MAX_SPARE_BYTES) spare = buffer;
}

export class ServedLink implements Pollable {
  readonly counters: LinkCounters;
  readonly #fd: number;
  readonly #pump: Pump;
  readonly #source: Source;
  readonly #copyOnly: boolean;
  readonly #events: LinkEvents;
  readonly #intake: Intake;
  readonly #journal: Journal | undefined;
  readonly #pipe: ReplyPipe | undefined;
  readonly #replies: Replies;
  readonly #slot: number;
  #outboxBytes = 0;
  /** Where each reply in the outbox begins: all carry data, and become errors if it fails verification. */
  readonly #outboxReplies: number[] = [];
  /** Where the data of each comes from, in the source. */
  readonly #outboxOffsets: number[] = [];
  /** The journal's slots of the requests that the outbox answers. */
  readonly #outboxSlots: number[] = [];
  readonly #oneSlot: number[] = [0];
  #asyncBytes = 0;
  /** The peer has said goodbye: what it asked for before is still answered, then the link ends. */
  #leaving = false;
  /** The rest of a reply that has begun is being read: nothing else may leave before it. */
  #resuming = false;
  /** Nothing new is answered before the peer has read what was sent by reference. */
  #holdingBack = false;
  #interest = EPOLLIN;
  #requestSeen = false;
  #open = true;

  /** Takes the non-blocking socket over; the source stays the caller's. */
  constructor(fd: number, pump: Pump, options: LinkOptions, events: LinkEvents) {
    this.#fd = fd;
    this.#pump = pump;
    this.#source = options.source;
    this.#copyOnly = options.copyOnly ?? false;
    this.#events = events;
    growSendBuffer(fd, SEND_BUFFER_BYTES);
    const { journal } = options;
    this.#journal = journal?.journal;
    this.#pipe = journal?.pipe;
    this.counters = this.#journal ?? { ...NO_COUNTERS };
    this.#intake = this.#journal ?? new RequestFramer(new Uint8Array(INBOX_BYTES));
    this.#replies =
      journal === undefined
        ? new ReplyQueue(fd)
        : new JournaledReplies(fd, journal.pipe, journal.journal, journal.counted);
    this.#slot = pump.add(fd, EPOLLIN, this);
  }

  /** Begins with requests that came together with the end of a handshake: less than an inbox of them. */
  start(received: Uint8Array): void {
    this.#intake.inbox.set(received);
    this.#intake.received(received.length);
    this.#answerReceived();
  }

  /** Goes on where another worker stopped or was stopped: by the journal, which has been settled (recovery.ts). */
  resume(): void {
    const journal = this.#journal as Journal;
    journal.busy = true;
    this.#attempt(() => this.#resumeBatch());
    this.#answerReceived();
    if (this.#open) journal.busy = false;
  }

  /** Whether the peer has yet to read pages of the file itself. */
  get sharesPages(): boolean {
    return this.#open && this.#replies.sharesPages;
  }

  /** Answers nothing new until `goOn`: what has been sent is to be read first. A reply that has begun is finished. */
  holdBack(): void {
    this.#holdingBack = true;
  }

  goOn(): void {
    this.#holdingBack = false;
    if (this.#open) this.onEvents(0);
  }

  /** A descriptor of the socket that tells, when the link has ended, how much its peer has not read. @throws SystemError */
  keepSocket(): number {
    return duplicate(this.#fd);
  }

  /** Lets go of the link, which lives on: another worker goes on with what the journal says is left. */
  release(): void {
    if (!this.#open) return;
    this.#leave();
  }

  /** Stops serving and closes the socket; requests without an answer stay without one. */
  close(): void {
    this.#end({ kind: "closed" });
  }

  onEvents(events: number): void {
    // Outside of this nothing of the link's runs but the completion of asynchronous reads.
    if (this.#journal !== undefined) this.#journal.busy = true;
    this.#turn(events);
    if (this.#journal !== undefined && this.#open) this.#journal.busy = false;
  }

  #turn(events: number): void {
    if ((events & EPOLLOUT) !== 0) this.#attempt(() => this.#replies.flush());
    if (!this.#answerReceived()) {
      // Nobody is left to take what is still owed, and epoll would report it over and over.
      if ((events & (EPOLLHUP | EPOLLERR)) !== 0) this.#end({ kind: "end-of-file" });
      return;
    }
    for (let round = 0; round < MAX_RECEIVES; round += 1) {
      const { inbox, receiveAt, space } = this.#intake;
      if (space === 0) return;
      const got = recv(this.#fd, receiveAt === 0 ? inbox : inbox.subarray(receiveAt), space, MSG_DONTWAIT);
      if (got === -ERRNO.EAGAIN) return;
      if (got === -ERRNO.EINTR) continue;
      if (got === 0 || got === -ERRNO.ECONNRESET) return this.#end({ kind: "end-of-file" });
      if (got < 0) return this.#end({ kind: "socket-error", message: `recv failed: ${errnoName(-got)}` });
      if (!this.#take(got) || !this.#answerReceived() || got < space) return;
    }
  }

  #take(count: number): boolean {
    try {
      this.#intake.received(count);
      return true;
    } catch (error) {
      this.#break(error);
      return false;
    }
  }

  /** Answers the whole requests in the inbox; false when the link has ended or must wait before it goes on. */
  #answerReceived(): boolean {
    try {
      while (this.#canAnswer() && this.#intake.next(request)) this.#answer();
    } catch (error) {
      this.#break(error);
    }
    this.#flushOutbox();
    if (this.#leaving && this.#replies.isEmpty && this.#asyncBytes === 0) this.#end({ kind: "disconnect" });
    this.#updateInterest();
    return this.#canAnswer();
  }

  #canAnswer(): boolean {
    if (!this.#open || this.#leaving || this.#resuming || this.#holdingBack) return false;
    return this.#replies.isEmpty && this.#asyncBytes < MAX_ASYNC_BYTES;
  }

  #break(error: unknown): void {
    if (!(error instanceof NbdProtocolError)) throw error;
    this.#flushOutbox();
    this.#end({ kind: "protocol-error", message: error.message });
  }

  #answer(): void {
    // A journal counts replies instead: nothing is counted twice when a worker dies.
    if (this.#journal === undefined) this.counters.requests += 1;
    if (!this.#requestSeen) this.#events.firstRequest?.();
    this.#requestSeen = true;
    const payload = payloadBytes(request);
    if (payload === PAYLOAD_TOO_LONG) {
      const message = `a write of ${request.lengthBytes} bytes to a read-only export`;
      this.#flushOutbox();
      return this.#end({ kind: "protocol-error", message });
    }
    if (payload > 0) this.#intake.skip(payload);
    const errno = checkRequest(request, this.#source.sizeBytes, true);
    if (errno !== 0) this.#replyError(errno);
    else if (request.type === NBD_CMD_READ) this.#read();
    else if (request.type === NBD_CMD_DISC) this.#leaving = true;
  }

  #read(): void {
    const { offsetBytes, lengthBytes } = request;
    if (this.#source.asynchronous) return this.#readLater();
    if (lengthBytes >= this.#replies.fileMinBytes && !this.#copyOnly) {
      const extent = this.#source.extent(offsetBytes, lengthBytes);
      if (extent !== undefined) return this.#sendExtent(extent);
    }
    const replyBytes = SIMPLE_REPLY_BYTES + lengthBytes;
    const { batchBytes } = this.#replies;
    if (this.#outboxBytes + replyBytes > batchBytes) this.#flushOutbox();
    if (!this.#open) return;
    if (replyBytes > batchBytes || !this.#canAnswer()) return this.#readAlone();
    const at = this.#outboxBytes;
    try {
      void this.#source.read(outbox.subarray(at + SIMPLE_REPLY_BYTES, at + replyBytes), offsetBytes);
    } catch (error) {
      if (error instanceof StaleReadError) return this.#readAlone();
      return this.#failRead(error);
    }
    encodeReplyInto(outbox, at, 0, request.cookieHigh, request.cookieLow);
    this.#outboxBytes += replyBytes;
    this.#outboxReplies.push(at);
    this.#outboxOffsets.push(offsetBytes);
    this.#outboxSlots.push(this.#requestSlot);
    this.counters.readBytes += lengthBytes;
  }

  /** Sends the gathered replies, once the source has vouched for the data in them. */
  #flushOutbox(): void {
    if (this.#outboxBytes === 0) return;
    try {
      this.#verifyOutbox();
    } catch (error) {
      this.#turnIntoErrors(error);
    }
    const lengthBytes = this.#outboxBytes;
    this.#outboxBytes = 0;
    this.#outboxReplies.length = 0;
    this.#outboxOffsets.length = 0;
    this.#sent(this.#replies.sendBatch(outbox, lengthBytes, this.#outboxSlots));
    this.#outboxSlots.length = 0;
  }

  #verifyOutbox(): void {
    try {
      this.#source.verify();
    } catch (error) {
      if (!(error instanceof StaleReadError)) throw error;
      error.renew();
      readSteadily(() => this.#readOutboxAgain());
    }
  }

  #readOutboxAgain(): void {
    this.#outboxReplies.forEach((at, index) => {
      const end = this.#outboxReplies[index + 1] ?? this.#outboxBytes;
      const data = outbox.subarray(at + SIMPLE_REPLY_BYTES, end);
      void this.#source.read(data, this.#outboxOffsets[index] as number);
    });
    this.#source.verify();
  }

  get #requestSlot(): number {
    return this.#journal === undefined ? 0 : this.#journal.slot;
  }

  /** The data read for this batch cannot be trusted: its headers stay, marked as errors, the data goes. */
  #turnIntoErrors(error: unknown): void {
    this.#outboxReplies.forEach((at, index) => {
      const header = index * SIMPLE_REPLY_BYTES;
      outbox.copyWithin(header, at, at + SIMPLE_REPLY_BYTES);
      outbox[header + 7] = NBD_EIO;
    });
    this.#outboxBytes = this.#outboxReplies.length * SIMPLE_REPLY_BYTES;
    this.#countErrors(error, this.#outboxReplies.length);
  }

  /** A reply from the page cache, without a copy: there is an extent only where the file cannot change. */
  #sendExtent(extent: FileExtent): void {
    const { lengthBytes, cookieHigh, cookieLow } = request;
    encodeReplyInto(head, 0, 0, cookieHigh, cookieLow);
    this.counters.readBytes += lengthBytes;
    const slot = this.#requestSlot;
    try {
      this.#attempt(() => this.#replies.sendFile(head, extent, lengthBytes, slot));
    } catch (error) {
      this.counters.readBytes -= lengthBytes;
      this.#failRead(error);
    }
  }

  /** A reply too large for the outbox, or one that has to wait: it gets a buffer of its own. */
  #readAlone(): void {
    // What has been read before is judged by its own look at the source.
    this.#flushOutbox();
    if (!this.#open) return;
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    const buffer = takeSpare(SIMPLE_REPLY_BYTES + lengthBytes);
    const reply = buffer.subarray(0, SIMPLE_REPLY_BYTES + lengthBytes);
    try {
      readSteadily(() => {
        void this.#source.read(reply.subarray(SIMPLE_REPLY_BYTES), offsetBytes);
        this.#source.verify();
      });
    } catch (error) {
      keepSpare(buffer);
      return this.#failRead(error);
    }
    encodeReplyInto(reply, 0, 0, cookieHigh, cookieLow);
    this.counters.readBytes += lengthBytes;
    this.#sent(this.#replies.sendOwned(reply, this.#requestSlot));
    // It has left whole: nothing holds on to the buffer.
    if (this.#replies.isEmpty) keepSpare(buffer);
  }

  /** A source that answers later: the reply leaves when its data has come, in whatever order. */
  #readLater(): void {
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    const reply = new Uint8Array(SIMPLE_REPLY_BYTES + lengthBytes);
    const slot = this.#requestSlot;
    this.#asyncBytes += reply.length;
    this.#pump.asynchronousStarted();
    const finish = (errno: number): void => {
      this.#pump.asynchronousEnded();
      this.#asyncBytes -= reply.length;
      if (!this.#open) return;
      encodeReplyInto(reply, 0, errno, cookieHigh, cookieLow);
      this.#sent(this.#replies.sendOwned(errno === 0 ? reply : reply.subarray(0, SIMPLE_REPLY_BYTES), slot));
      // Requests may wait in the inbox for memory that has just become free.
      this.#answerReceived();
    };
    const read = async (): Promise<void> => {
      await this.#source.read(reply.subarray(SIMPLE_REPLY_BYTES), offsetBytes);
      this.#source.verify();
    };
    read().then(
      () => {
        if (this.#open) this.counters.readBytes += lengthBytes;
        finish(0);
      },
      (error: unknown) => {
        if (this.#open) this.#countErrors(error, 1);
        finish(NBD_EIO);
      },
    );
  }

  /** The rest of a reply that a former worker had begun: the same bytes again, from where it had come to. */
  #resumeBatch(): number {
    const journal = this.#journal as Journal;
    const replies = this.#replies as JournaledReplies;
    const batch = journal.batch;
    if (batch.phase === "idle" || batch.committedBytes === batch.totalBytes) return replies.resume(undefined);
    journal.requestIn(journal.slotsIn("sending")[0] as number, request);
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    encodeReplyInto(head, 0, 0, cookieHigh, cookieLow);
    const extent = this.#source.extent(offsetBytes, lengthBytes);
    if (extent !== undefined && !this.#copyOnly)
      return replies.resume({ header: head.slice(), data: extent, lengthBytes });
    const reply = new Uint8Array(SIMPLE_REPLY_BYTES + lengthBytes);
    reply.set(head);
    const rest = { header: head.slice(), data: reply, lengthBytes };
    const data = reply.subarray(SIMPLE_REPLY_BYTES);
    let reading: Promise<void> | undefined;
    readSteadily(() => {
      reading = this.#source.read(data, offsetBytes) ?? undefined;
      if (reading === undefined) this.#source.verify();
    });
    if (reading === undefined) return replies.resume(rest);
    this.#resumeLater(reading, () => replies.resume(rest));
    return 0;
  }

  /** A source that answers later, and a part of its reply has left already: there is no error to answer with any more. */
  #resumeLater(reading: Promise<void>, resume: () => number): void {
    this.#resuming = true;
    this.#pump.asynchronousStarted();
    const finish = (goOn: () => number): void => {
      this.#pump.asynchronousEnded();
      this.#resuming = false;
      this.#attempt(goOn);
      if (this.#open) this.#answerReceived();
    };
    reading.then(
      () => finish(resume),
      (error: unknown) =>
        finish(() => {
          throw error;
        }),
    );
  }

  #failRead(error: unknown): void {
    this.#countErrors(error, 1);
    this.#replyError(NBD_EIO);
  }

  #replyError(errno: number): void {
    encodeReplyInto(head, 0, errno, request.cookieHigh, request.cookieLow);
    this.#oneSlot[0] = this.#requestSlot;
    this.#sent(this.#replies.sendBatch(head, SIMPLE_REPLY_BYTES, this.#oneSlot));
  }

  /** Sources fail with SourceError or SystemError; anything else is a bug and ends the process. */
  #countErrors(error: unknown, count: number): void {
    if (!(error instanceof SourceError || error instanceof SystemError)) throw error;
    this.counters.readErrors += count;
    this.#events.readError?.(error);
  }

  #attempt(send: () => number): void {
    if (!this.#open) return;
    try {
      this.#sent(send());
    } catch (error) {
      if (!(error instanceof SourceError) || error instanceof UnsentReplyError) throw error;
      this.#end({ kind: "source-error", message: error.message });
    }
  }

  #sent(result: number): void {
    if (result < 0) this.#end({ kind: "socket-error", message: `send failed: ${errnoName(-result)}` });
  }

  /** Waits for room while replies are queued, for nothing while reads hold the memory, else for requests. */
  #updateInterest(): void {
    if (!this.#open) return;
    const canReceive = this.#canAnswer() && (this.#asyncBytes === 0 || this.#intake.space > 0);
    const interest = this.#replies.isEmpty ? (canReceive ? EPOLLIN : 0) : EPOLLOUT;
    if (interest === this.#interest) return;
    this.#interest = interest;
    this.#pump.modify(this.#fd, interest, this.#slot);
  }

  /** After a goodbye nothing that happens to the socket is a failure. */
  #end(why: LinkEnd): void {
    if (!this.#open) return;
    const end: LinkEnd = this.#leaving ? { kind: "disconnect" } : why;
    shutdown(this.#fd, SHUT_RDWR);
    this.#leave();
    this.#events.end(end);
  }

  #leave(): void {
    this.#open = false;
    this.#outboxBytes = 0;
    this.#outboxReplies.length = 0;
    this.#outboxOffsets.length = 0;
    this.#outboxSlots.length = 0;
    this.#pump.remove(this.#fd, this.#slot);
    close(this.#fd);
    if (this.#pipe === undefined) return;
    close(this.#pipe.readFd);
    close(this.#pipe.writeFd);
  }
}
