/**
 * The read-serving loop: the everyday read of a link, from its socket to its reply, from top to bottom.
 *
 *   socket ─recv─► inbox ─► request ─check─► source ─► outbox ─verify, send─► socket
 *
 * One loop per link, called by ServedLink when the pump has events for its socket. All links of a process run on one
 * thread. The requests of one `recv` are answered in as few sends as possible. Beside this file: the outbox
 * (outbox.ts), large replies (large-replies.ts), replies of asynchronous sources (late-replies.ts), replies that
 * report holes (sparse-replies.ts), the first reply after a takeover (resumed-reply.ts), and how replies leave
 * (replies/).
 */
import { NbdProtocolError } from "../nbd/protocol-error.ts";
import { checkRequest, PAYLOAD_TOO_LONG, payloadBytes } from "../nbd/request-check.ts";
import { RequestFramer } from "../nbd/request-framer.ts";
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_DISC,
  NBD_CMD_READ,
  type NbdRequest,
  newRequest,
} from "../nbd/wire.ts";
import { StaleReadError } from "../source/source.ts";
import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT } from "../sys/epoll.ts";
import { ERRNO, errnoName } from "../sys/errno.ts";
import { MSG_DONTWAIT, recv } from "../sys/libc/sockets.ts";
import { LargeReplies } from "./large-replies.ts";
import { LateReplies, MAX_ASYNC_BYTES } from "./late-replies.ts";
import type { LinkContext } from "./link-context.ts";
import { Outbox } from "./outbox.ts";
import { SparseReplies } from "./sparse-replies.ts";

/** A kernel has a few hundred requests of 28 bytes on a link at most; the rest is for payloads that are skipped. */
const INBOX_BYTES = 16 * 1024;
/** Receives of one link per wake-up, so that a busy link does not keep the others waiting. */
const MAX_RECEIVES = 8;

/** Where requests arrive: in a journal, or in a framer for peers whose requests come in any split. */
type Intake = Pick<RequestFramer, "inbox" | "receiveAt" | "space" | "received" | "next" | "skip">;

/** The request that is being answered. One for all links: an asynchronous read copies what it needs. */
const request: NbdRequest = newRequest();

export class ServeLoop {
  readonly #link: LinkContext;
  readonly #intake: Intake;
  readonly #outbox: Outbox;
  readonly #large: LargeReplies;
  readonly #late: LateReplies;
  /** For peers of structured replies only. */
  readonly #sparse: SparseReplies | undefined;
  #requestSeen = false;

  constructor(link: LinkContext) {
    this.#link = link;
    this.#intake = link.journal ?? new RequestFramer(new Uint8Array(INBOX_BYTES));
    this.#outbox = new Outbox(link);
    this.#large = new LargeReplies(link, this.#outbox);
    this.#late = new LateReplies(link, () => this.answerReceived());
    if (link.structured !== undefined) this.#sparse = new SparseReplies(link, this.#outbox);
  }

  /** Begins with bytes that have been received already: less than an inbox of them. */
  start(received: Uint8Array): void {
    this.#intake.inbox.set(received);
    this.#intake.received(received.length);
    this.answerReceived();
  }

  /** Handles the socket's events: sends what waits, then receives and answers until the socket is empty. */
  turn(events: number): void {
    const link = this.#link;
    if ((events & EPOLLOUT) !== 0) link.flush();
    if (!this.answerReceived()) {
      // The peer is gone: it takes no replies any more, and epoll would report the event over and over.
      if ((events & (EPOLLHUP | EPOLLERR)) !== 0) link.end({ kind: "end-of-file" });
      return;
    }
    for (let round = 0; round < MAX_RECEIVES; round += 1) {
      const { inbox, receiveAt, space } = this.#intake;
      if (space === 0) return;
      const got = recv(link.fd, receiveAt === 0 ? inbox : inbox.subarray(receiveAt), space, MSG_DONTWAIT);
      if (got === -ERRNO.EAGAIN) return;
      if (got === -ERRNO.EINTR) continue;
      if (got === 0 || got === -ERRNO.ECONNRESET) return link.end({ kind: "end-of-file" });
      if (got < 0) return link.end({ kind: "socket-error", message: `recv failed: ${errnoName(-got)}` });
      if (!this.#take(got) || !this.answerReceived() || got < space) return;
    }
  }

  /** Counts what was received; false when the link has ended. */
  #take(count: number): boolean {
    try {
      this.#intake.received(count);
      return true;
    } catch (error) {
      this.#endOnProtocolError(error);
      return false;
    }
  }

  /** Answers the whole requests in the inbox; false when the link has ended or has to wait before it goes on. */
  answerReceived(): boolean {
    const link = this.#link;
    try {
      while (this.#canAnswer && this.#intake.next(request)) this.#answer();
    } catch (error) {
      this.#endOnProtocolError(error);
    }
    this.#outbox.flush();
    if (link.isLeaving && link.replies.isEmpty && this.#late.bytes === 0) link.end({ kind: "disconnect" });
    if (link.isOpen) link.watch(this.#interest);
    return this.#canAnswer;
  }

  get #canAnswer(): boolean {
    const link = this.#link;
    return link.isAnswering && link.replies.isEmpty && this.#late.bytes < MAX_ASYNC_BYTES;
  }

  /** Room in the socket while replies wait; nothing while reads hold the memory; else requests. */
  get #interest(): number {
    if (!this.#link.replies.isEmpty) return EPOLLOUT;
    return this.#canAnswer && (this.#late.bytes === 0 || this.#intake.space > 0) ? EPOLLIN : 0;
  }

  /** Checks one request and answers it, or has its read begin. */
  #answer(): void {
    const link = this.#link;
    // A journal counts replies instead, so that nothing is counted twice when a worker dies.
    if (link.journal === undefined) link.counters.requests += 1;
    if (!this.#requestSeen) link.events.firstRequest?.();
    this.#requestSeen = true;
    const payload = payloadBytes(request);
    if (payload === PAYLOAD_TOO_LONG) {
      this.#outbox.flush();
      const message = `a write of ${request.lengthBytes} bytes to a read-only export`;
      return link.end({ kind: "protocol-error", message });
    }
    if (payload > 0) this.#intake.skip(payload);
    const errno = checkRequest(request, link.source.sizeBytes, true, link.structured);
    if (errno !== 0) link.refuse(request, errno);
    else if (request.type === NBD_CMD_READ) this.#read();
    else if (request.type === NBD_CMD_BLOCK_STATUS) this.#sparse?.status(request);
    else if (request.type === NBD_CMD_DISC) link.isLeaving = true;
  }

  /** Reads into the outbox, unless the reply is a large or a late one. */
  #read(): void {
    const link = this.#link;
    const { offsetBytes, lengthBytes } = request;
    if (link.source.asynchronous) return this.#late.read(request);
    if (this.#sparse?.read(request) === true) return;
    if (lengthBytes >= link.replies.fileMinBytes && this.#large.sendFromFile(request)) return;
    if (!this.#outbox.hasRoom(lengthBytes)) this.#outbox.flush();
    if (!link.isOpen) return;
    if (!this.#outbox.hasRoom(lengthBytes) || !this.#canAnswer) return this.#large.readAlone(request);
    try {
      void link.source.read(this.#outbox.room(lengthBytes), offsetBytes);
    } catch (error) {
      if (error instanceof StaleReadError) return this.#large.readAlone(request);
      return link.failRead(request, error);
    }
    this.#outbox.add(request);
  }

  /** Sends the replies that came before the error, then ends the link. Rethrows other errors. */
  #endOnProtocolError(error: unknown): void {
    if (!(error instanceof NbdProtocolError)) throw error;
    this.#outbox.flush();
    this.#link.end({ kind: "protocol-error", message: error.message });
  }
}
