/**
 * The read-serving loop: a request from socket to reply, top to bottom, without leaving this file.
 *
 *   socket ─recv─► inbox ─framer─► request ─check─► source ─► outbox ─send─► socket
 *
 * One `ServedLink` per socket; all of a process share one outbox and one pump, on one thread. A link neither
 * knows nor cares whether its socket is a device's first or a fresh one after a failure. What one `recv` brought
 * in is answered in as few sends as possible, and no header leaves before its data is in hand, with one
 * exception: large reads of a local file go straight from the page cache (`sendfile`); if the file fails then,
 * the link is cut so that the kernel asks again.
 */

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
import { type FileExtent, type Source, SourceError } from "../source/source.ts";
import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT } from "../sys/epoll.ts";
import { ERRNO, errnoName, SystemError } from "../sys/errno.ts";
import { close, growSendBuffer, MSG_DONTWAIT, recv, SHUT_RDWR, shutdown } from "../sys/libc.ts";
import { type LinkCounters, type LinkEnd, NO_COUNTERS } from "./link-end.ts";
import type { Pollable, Pump } from "./pump.ts";
import { ReplyQueue } from "./reply-queue.ts";

/** The kernel has a few hundred requests of 28 bytes on a link at most; the rest is for payloads to skip. */
const INBOX_BYTES = 16 * 1024;
/** Replies gathered before a send. A larger reply that has to be copied gets a buffer of its own. */
export const OUTBOX_BYTES: number = 256 * 1024;
/** From this size on a reply goes from the page cache: copying is as cheap up to 32 KiB, and a third dearer at 64 KiB. */
export const SENDFILE_MIN_BYTES: number = 48 * 1024;
/**
 * Room for a megabyte's reply in the socket, or whatever the system allows us. With the usual 208 KiB each large
 * reply waits for its reader several times: 1 MiB reads ran at a third of the rate for three times the CPU time.
 */
const SEND_BUFFER_BYTES = 1024 * 1024;
/** One busy link must not keep the others waiting: after so many receives it is their turn. */
const MAX_RECEIVES = 8;
/** What asynchronous reads of one link may hold in memory at once. */
export const MAX_ASYNC_BYTES: number = 2 * MAX_REQUEST_BYTES;

export interface LinkOptions {
  readonly source: Source;
  /** Never use `sendfile`: set on the link that follows one which was cut inside a reply. */
  readonly copyOnly?: boolean;
}

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

export class ServedLink implements Pollable {
  readonly counters: LinkCounters = { ...NO_COUNTERS };
  readonly #fd: number;
  readonly #pump: Pump;
  readonly #source: Source;
  readonly #copyOnly: boolean;
  readonly #events: LinkEvents;
  readonly #framer = new RequestFramer(new Uint8Array(INBOX_BYTES));
  readonly #queue: ReplyQueue;
  readonly #slot: number;
  #outboxBytes = 0;
  /** Where each reply in the outbox begins: all carry data, and become errors if it fails verification. */
  readonly #outboxReplies: number[] = [];
  /** Whether the source has vouched for the file in this pass over the inbox. */
  #vouched = false;
  #asyncBytes = 0;
  /** The peer has said goodbye: what it asked for before is still answered, then the link ends. */
  #leaving = false;
  #interest = EPOLLIN;
  #open = true;

  /** Takes the non-blocking socket over; the source stays the caller's. */
  constructor(fd: number, pump: Pump, options: LinkOptions, events: LinkEvents) {
    this.#fd = fd;
    this.#pump = pump;
    this.#source = options.source;
    this.#copyOnly = options.copyOnly ?? false;
    this.#events = events;
    this.#queue = new ReplyQueue(fd);
    growSendBuffer(fd, SEND_BUFFER_BYTES);
    this.#slot = pump.add(fd, EPOLLIN, this);
  }

  /** Begins with requests that came together with the end of a handshake: less than an inbox of them. */
  start(received: Uint8Array): void {
    this.#framer.inbox.set(received);
    this.#framer.received(received.length);
    this.#answerReceived();
  }

  /** Stops serving and closes the socket; requests without an answer stay without one. */
  close(): void {
    this.#end({ kind: "closed" });
  }

  onEvents(events: number): void {
    if ((events & EPOLLOUT) !== 0) this.#attempt(() => this.#flushQueue());
    if (!this.#answerReceived()) {
      // Nobody is left to take what is still owed, and epoll would report it over and over.
      if ((events & (EPOLLHUP | EPOLLERR)) !== 0) this.#end({ kind: "end-of-file" });
      return;
    }
    for (let round = 0; round < MAX_RECEIVES; round += 1) {
      const { inbox, receiveAt, space } = this.#framer;
      const got = recv(this.#fd, receiveAt === 0 ? inbox : inbox.subarray(receiveAt), space, MSG_DONTWAIT);
      if (got === -ERRNO.EAGAIN) return;
      if (got === -ERRNO.EINTR) continue;
      if (got === 0 || got === -ERRNO.ECONNRESET) return this.#end({ kind: "end-of-file" });
      if (got < 0) return this.#end({ kind: "socket-error", message: `recv failed: ${errnoName(-got)}` });
      this.#framer.received(got);
      if (!this.#answerReceived() || got < space) return;
    }
  }

  /** Answers the whole requests in the inbox; false when the link has ended or must wait before it goes on. */
  #answerReceived(): boolean {
    this.#vouched = false;
    try {
      while (this.#canAnswer() && this.#framer.next(request)) this.#answer();
    } catch (error) {
      if (!(error instanceof NbdProtocolError)) throw error;
      this.#flushOutbox();
      this.#end({ kind: "protocol-error", message: error.message });
    }
    this.#flushOutbox();
    if (this.#leaving && this.#queue.isEmpty && this.#asyncBytes === 0) this.#end({ kind: "disconnect" });
    this.#updateInterest();
    return this.#canAnswer();
  }

  #canAnswer(): boolean {
    return this.#open && !this.#leaving && this.#queue.isEmpty && this.#asyncBytes < MAX_ASYNC_BYTES;
  }

  /** A reader that made us wait may have made us wait long: the file is looked at again. */
  #flushQueue(): number {
    if (this.#queue.needsFile) this.#source.verify();
    return this.#queue.flush();
  }

  #answer(): void {
    this.counters.requests += 1;
    if (this.counters.requests === 1) this.#events.firstRequest?.();
    const payload = payloadBytes(request);
    if (payload === PAYLOAD_TOO_LONG) {
      const message = `a write of ${request.lengthBytes} bytes to a read-only export`;
      this.#flushOutbox();
      return this.#end({ kind: "protocol-error", message });
    }
    if (payload > 0) this.#framer.skip(payload);
    const errno = checkRequest(request, this.#source.sizeBytes, true);
    if (errno !== 0) this.#replyError(errno);
    else if (request.type === NBD_CMD_READ) this.#read();
    else if (request.type === NBD_CMD_DISC) this.#leaving = true;
  }

  #read(): void {
    const { offsetBytes, lengthBytes } = request;
    if (this.#source.asynchronous) return this.#readLater();
    if (lengthBytes >= SENDFILE_MIN_BYTES && !this.#copyOnly) {
      const extent = this.#source.extent(offsetBytes, lengthBytes);
      if (extent !== undefined) return this.#sendExtent(extent);
    }
    const replyBytes = SIMPLE_REPLY_BYTES + lengthBytes;
    if (this.#outboxBytes + replyBytes > OUTBOX_BYTES) this.#flushOutbox();
    if (!this.#open) return;
    if (replyBytes > OUTBOX_BYTES || !this.#canAnswer()) return this.#readAlone();
    const at = this.#outboxBytes;
    try {
      void this.#source.read(outbox.subarray(at + SIMPLE_REPLY_BYTES, at + replyBytes), offsetBytes);
    } catch (error) {
      return this.#failRead(error);
    }
    encodeReplyInto(outbox, at, 0, request.cookieHigh, request.cookieLow);
    this.#outboxBytes += replyBytes;
    this.#outboxReplies.push(at);
    this.counters.readBytes += lengthBytes;
  }

  /** Sends the gathered replies, once the source has vouched for the data in them. */
  #flushOutbox(): void {
    if (this.#outboxBytes === 0) return;
    try {
      this.#source.verify();
    } catch (error) {
      this.#turnIntoErrors(error);
    }
    const lengthBytes = this.#outboxBytes;
    this.#outboxBytes = 0;
    this.#outboxReplies.length = 0;
    this.#sent(this.#queue.sendShared(outbox, lengthBytes));
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

  /**
   * A reply from the page cache, without a copy. Verified before, because nothing can be taken back after; once per
   * pass is enough (a file's time has a grain of milliseconds, and each look cost a tenth of a 128 KiB reply).
   */
  #sendExtent(extent: FileExtent): void {
    const { lengthBytes, cookieHigh, cookieLow } = request;
    try {
      if (!this.#vouched) this.#source.verify();
      this.#vouched = true;
    } catch (error) {
      return this.#failRead(error);
    }
    encodeReplyInto(head, 0, 0, cookieHigh, cookieLow);
    this.counters.readBytes += lengthBytes;
    this.#sent(this.#queue.sendShared(head, SIMPLE_REPLY_BYTES, true));
    this.#attempt(() => this.#queue.sendExtent(extent, lengthBytes));
  }

  /** A reply too large for the outbox, or one that has to wait: it gets a buffer of its own. */
  #readAlone(): void {
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    const reply = new Uint8Array(SIMPLE_REPLY_BYTES + lengthBytes);
    try {
      void this.#source.read(reply.subarray(SIMPLE_REPLY_BYTES), offsetBytes);
      this.#source.verify();
    } catch (error) {
      return this.#failRead(error);
    }
    encodeReplyInto(reply, 0, 0, cookieHigh, cookieLow);
    this.counters.readBytes += lengthBytes;
    this.#sent(this.#queue.sendOwned(reply));
  }

  /** A source that answers later: the reply leaves when its data has come, in whatever order. */
  #readLater(): void {
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    const reply = new Uint8Array(SIMPLE_REPLY_BYTES + lengthBytes);
    this.#asyncBytes += reply.length;
    this.#pump.asynchronousStarted();
    const finish = (errno: number): void => {
      this.#pump.asynchronousEnded();
      this.#asyncBytes -= reply.length;
      if (!this.#open) return;
      encodeReplyInto(reply, 0, errno, cookieHigh, cookieLow);
      this.#sent(this.#queue.sendOwned(errno === 0 ? reply : reply.subarray(0, SIMPLE_REPLY_BYTES)));
      // Requests may wait in the inbox for memory that has just become free.
      this.#answerReceived();
    };
    const read = async (): Promise<void> => {
      await this.#source.read(reply.subarray(SIMPLE_REPLY_BYTES), offsetBytes);
      this.#source.verify();
    };
    read().then(
      () => {
        this.counters.readBytes += lengthBytes;
        finish(0);
      },
      (error: unknown) => {
        this.#countErrors(error, 1);
        finish(NBD_EIO);
      },
    );
  }

  #failRead(error: unknown): void {
    this.#countErrors(error, 1);
    this.#replyError(NBD_EIO);
  }

  #replyError(errno: number): void {
    encodeReplyInto(head, 0, errno, request.cookieHigh, request.cookieLow);
    this.#sent(this.#queue.sendShared(head, SIMPLE_REPLY_BYTES));
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
      if (!(error instanceof SourceError)) throw error;
      this.#end({ kind: "source-error", message: error.message });
    }
  }

  #sent(result: number): void {
    if (result < 0) this.#end({ kind: "socket-error", message: `send failed: ${errnoName(-result)}` });
  }

  /** Waits for room while replies are queued, for nothing while reads hold the memory, else for requests. */
  #updateInterest(): void {
    if (!this.#open) return;
    const interest = this.#queue.isEmpty ? (this.#canAnswer() ? EPOLLIN : 0) : EPOLLOUT;
    if (interest === this.#interest) return;
    this.#interest = interest;
    this.#pump.modify(this.#fd, interest, this.#slot);
  }

  /** After a goodbye nothing that happens to the socket is a failure. */
  #end(why: LinkEnd): void {
    if (!this.#open) return;
    const end: LinkEnd = this.#leaving ? { kind: "disconnect" } : why;
    this.#open = false;
    this.#outboxBytes = 0;
    this.#outboxReplies.length = 0;
    this.#pump.remove(this.#fd, this.#slot);
    shutdown(this.#fd, SHUT_RDWR);
    close(this.#fd);
    this.#events.end(end);
  }
}
