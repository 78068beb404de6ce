/**
 * What the parts of one served link share: its socket, its source, its replies, its counters, and the way it ends.
 *
 * Made by ServedLink. The read-serving loop and the files beside it (outbox, large, late and resumed replies) work on
 * it and keep only what is theirs alone.
 */
import type { Journal } from "../journal/journal.ts";
import { type ReplyFormat, SIMPLE_REPLIES, STRUCTURED_REPLIES } from "../nbd/reply-format.ts";
import type { StructuredReplies } from "../nbd/request-check.ts";
import { NBD_EIO, type NbdRequest } from "../nbd/wire.ts";
import { type Source, SourceError } from "../source/source.ts";
import { EPOLLIN } from "../sys/epoll.ts";
import { errnoName, SystemError } from "../sys/errno.ts";
import { close } from "../sys/libc/files.ts";
import { growSendBuffer, SHUT_RDWR, shutdown } from "../sys/libc/sockets.ts";
import { type LinkCounters, type LinkEnd, NO_COUNTERS } from "../worker-protocol/link-end.ts";
import { SEND_BUFFER_BYTES } from "../worker-protocol/messages.ts";
import type { Pollable, Pump } from "./pump.ts";
import { JournaledReplies } from "./replies/journaled-replies.ts";
import type { ReplyPipe } from "./replies/pipe-job.ts";
import { type Replies, UnsentReplyError } from "./replies/replies.ts";
import { ReplyQueue } from "./replies/reply-queue.ts";

export interface LinkOptions {
  readonly source: Source;
  /** Never send from the page cache. Set on the successor of a link that was cut inside a reply. */
  readonly copyOnly?: boolean;
  /** Makes a takeover possible. A link without one ends with its process. */
  readonly journal?: JournaledLink;
  /** The peer has asked for structured replies. Never with a journal: kernels know simple ones only. */
  readonly structured?: StructuredReplies;
}

export interface JournaledLink {
  readonly journal: Journal;
  /** Belongs to the link from now on. */
  readonly pipe: ReplyPipe;
  /** See JournaledReplies. */
  readonly counted: boolean;
}

export interface LinkEvents {
  /** The first request has arrived: the peer uses this socket. */
  firstRequest?(): void;
  /** A read was answered with an error, for this reason. */
  readError?(error: Error): void;
  /** The socket is closed. Called exactly once, unless the link is released. */
  end(end: LinkEnd): void;
}

const errorReply = new Uint8Array(STRUCTURED_REPLIES.errorBytes);

export class LinkContext {
  readonly fd: number;
  readonly pump: Pump;
  readonly source: Source;
  readonly copyOnly: boolean;
  readonly events: LinkEvents;
  readonly journal: Journal | undefined;
  readonly replies: Replies;
  readonly structured: StructuredReplies | undefined;
  readonly format: ReplyFormat;
  readonly counters: LinkCounters;
  /** False once the socket is closed. */
  isOpen = true;
  /** The peer has sent a disconnect request: earlier requests are still answered, then the link ends. */
  isLeaving = false;
  /** The rest of a reply that has begun is being read: nothing else may leave before it. */
  isResuming = false;
  /** Nothing new is answered before the peer has read all pages that were sent by reference. */
  isHeldBack = false;
  readonly #token: number;
  readonly #oneEntry: number[] = [0];
  #interest = EPOLLIN;

  /** Takes over the non-blocking socket. `pollable` is called with its events. */
  constructor(fd: number, pump: Pump, options: LinkOptions, events: LinkEvents, pollable: Pollable) {
    this.fd = fd;
    this.pump = pump;
    this.source = options.source;
    this.copyOnly = options.copyOnly ?? false;
    this.structured = options.structured;
    this.format = options.structured === undefined ? SIMPLE_REPLIES : STRUCTURED_REPLIES;
    this.events = events;
    growSendBuffer(fd, SEND_BUFFER_BYTES);
    const { journal } = options;
    this.journal = journal?.journal;
    this.counters = this.journal ?? { ...NO_COUNTERS };
    this.replies =
      journal === undefined
        ? new ReplyQueue(fd)
        : new JournaledReplies(fd, journal.pipe, journal.journal, journal.counted);
    this.#token = pump.add(fd, EPOLLIN, pollable);
  }

  /** Whether requests are answered now; false also after the end. */
  get isAnswering(): boolean {
    return this.isOpen && !this.isLeaving && !this.isResuming && !this.isHeldBack;
  }

  /** The journal entry of the request that was decoded last; 0 without a journal. */
  get entry(): number {
    return this.journal === undefined ? 0 : this.journal.entry;
  }

  /** Sends what waits for room in the socket. */
  flush(): void {
    if (!this.isOpen) return;
    try {
      this.sent(this.replies.flush());
    } catch (error) {
      this.endInsideReply(error);
    }
  }

  /** Takes the result of a send: 0 or -errno. */
  sent(result: number): void {
    if (result < 0) this.end({ kind: "socket-error", message: `send failed: ${errnoName(-result)}` });
  }

  /** Answers a request with an error. */
  refuse(request: Readonly<NbdRequest>, errno: number): void {
    this.format.encodeErrorInto(errorReply, 0, errno, request.cookieHigh, request.cookieLow);
    this.#oneEntry[0] = this.entry;
    this.sent(this.replies.sendBatch(errorReply, this.format.errorBytes, this.#oneEntry));
  }

  /** Answers a request whose read failed with EIO. */
  failRead(request: Readonly<NbdRequest>, error: unknown): void {
    this.countErrors(error, 1);
    this.refuse(request, NBD_EIO);
  }

  /** Counts and reports failed reads. Rethrows what no source may throw: that is a bug and ends the process. */
  countErrors(error: unknown, count: number): void {
    if (!(error instanceof SourceError || error instanceof SystemError)) throw error;
    this.counters.readErrors += count;
    this.events.readError?.(error);
  }

  /** Ends the link because its source failed when a part of a reply had left. Rethrows other errors. */
  endInsideReply(error: unknown): void {
    if (!(error instanceof SourceError) || error instanceof UnsentReplyError) throw error;
    this.end({ kind: "source-error", message: error.message });
  }

  /** Sets the events of the socket that wake the link. */
  watch(interest: number): void {
    if (interest === this.#interest) return;
    this.#interest = interest;
    this.pump.modify(this.fd, interest, this.#token);
  }

  /** Ends the link and reports why. After a disconnect request nothing that happens to the socket is a failure. */
  end(why: LinkEnd): void {
    if (!this.isOpen) return;
    const end: LinkEnd = this.isLeaving ? { kind: "disconnect" } : why;
    shutdown(this.fd, SHUT_RDWR);
    this.release();
    this.events.end(end);
  }

  /** Closes this process's descriptors of the link; the connection lives on in their duplicates. */
  release(): void {
    this.isOpen = false;
    this.pump.remove(this.fd, this.#token);
    close(this.fd);
    this.replies.close();
  }
}
