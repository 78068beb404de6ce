/**
 * A message channel between a manager and a worker: JSON messages with descriptors, over a seqpacket socket.
 *
 * SOCK_SEQPACKET preserves message boundaries and keeps descriptors with their message (SCM_RIGHTS, unix(7)). A channel
 * never blocks: messages that do not fit into the socket wait in a queue and are retried.
 */

import { ERRNO, SystemError } from "../errno.ts";
import { check } from "../libc/bind.ts";
import { close } from "../libc/files.ts";
import {
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_TRUNC,
  recvmsg,
  sendmsg,
} from "../libc/sockets.ts";
import { type Watch, watchReadable } from "../watch.ts";
import { MessageHeader } from "./message-header.ts";

/** A message may not be longer than this; links and events are a few hundred bytes. */
const MAX_MESSAGE_BYTES = 64 * 1024;
/** Descriptors in one message; the kernel's own limit (SCM_MAX_FD) is 253. */
const MAX_FDS = 16;
const RETRY_MS = 5;
/** The remaining ones are reported again: a peer that sends without a pause must not starve others. */
const MESSAGES_AT_ONCE = 64;

interface Outgoing {
  readonly body: Uint8Array;
  readonly fds: readonly number[];
  readonly settle: (error: Error | null) => void;
}

export interface ChannelEvents<In> {
  /**
   * A message has arrived. The handler owns its descriptors and closes them. The kernel sets `senderPid` on a socket
   * with SO_PASSCRED.
   */
  message(message: In, fds: readonly number[], senderPid: number | undefined): void;
  /** The peer has closed its end, or the channel failed (`error`). Called once, after the channel was closed. */
  end(error: Error | null): void;
}

/** One end of a channel. Messages are only known to be objects: the receiver checks their shape. */
export class Channel<In, Out> {
  readonly fd: number;
  readonly #events: ChannelEvents<In>;
  readonly #watch: Watch;
  readonly #incoming = new Uint8Array(MAX_MESSAGE_BYTES);
  readonly #receiveHeader = new MessageHeader(MAX_FDS, true);
  readonly #sendHeader = new MessageHeader(MAX_FDS, false);
  readonly #queue: Outgoing[] = [];
  #retry: NodeJS.Timeout | undefined;
  #open = true;

  /** Takes over the descriptor. */
  constructor(fd: number, events: ChannelEvents<In>) {
    this.fd = fd;
    this.#events = events;
    this.#watch = watchReadable(fd, () => this.#drain(MESSAGES_AT_ONCE));
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /**
   * Sends one message. The peer gets duplicates of the descriptors, which must stay open until the promise has settled.
   * Rejects when the channel has ended, or when the signal aborts while the message waits for room.
   */
  send(message: Out, fds: readonly number[] = [], signal?: AbortSignal): Promise<void> {
    const body = new TextEncoder().encode(JSON.stringify(message));
    if (body.length > MAX_MESSAGE_BYTES || fds.length > MAX_FDS) {
      throw new RangeError(`cannot send a message of ${body.length} bytes and ${fds.length} descriptors`);
    }
    return new Promise((resolve, reject) => {
      const outgoing: Outgoing = {
        body,
        fds,
        settle: (error) => (error === null ? resolve() : reject(error)),
      };
      const takeBack = (): void => {
        const at = this.#queue.indexOf(outgoing);
        if (at < 0) return;
        this.#queue.splice(at, 1);
        outgoing.settle(new Error("cannot send a control message: it was taken back"));
      };
      signal?.addEventListener("abort", takeBack, { once: true });
      this.#queue.push(outgoing);
      this.#flush();
    });
  }

  unref(): void {
    this.#watch.unref();
  }

  /** Receives at once all that has arrived: what a peer sent before its exit must not be lost with the channel. */
  receiveRest(): void {
    this.#drain(Number.POSITIVE_INFINITY);
  }

  /** Closes this end; the peer sees an end of file. Messages not sent yet are rejected. */
  close(): void {
    this.#finish(null, false);
  }

  #flush(): void {
    while (this.#open) {
      const next = this.#queue[0];
      if (next === undefined) return;
      const sent = sendmsg(
        this.fd,
        this.#sendHeader.toSend(next.body, next.fds),
        MSG_DONTWAIT | MSG_NOSIGNAL,
      );
      if (sent === -ERRNO.EAGAIN || sent === -ERRNO.ENOBUFS) {
        this.#retry ??= setTimeout(() => {
          this.#retry = undefined;
          this.#flush();
        }, RETRY_MS);
        return;
      }
      this.#queue.shift();
      next.settle(sent < 0 ? new SystemError("send a control message", -sent) : null);
    }
    for (const left of this.#queue.splice(0))
      left.settle(new Error("cannot send a control message: the channel has ended"));
  }

  #drain(most: number): void {
    let wasReset = false;
    for (let left = most; this.#open && left > 0; left -= 1) {
      const header = this.#receiveHeader.toReceive(this.#incoming);
      const received = recvmsg(this.fd, header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (received === -ERRNO.EAGAIN || received === -ERRNO.EINTR) return;
      // The peer closed its end with unread messages. Its own messages are still to be received.
      if (received === -ERRNO.ECONNRESET && !wasReset) {
        wasReset = true;
        continue;
      }
      if (received <= 0) {
        this.#finish(
          received === 0 || received === -ERRNO.ECONNRESET
            ? null
            : new SystemError("receive a control message", -received),
          true,
        );
        return;
      }
      const { fds, senderPid } = this.#receiveHeader.received();
      if ((this.#receiveHeader.flags & (MSG_TRUNC | MSG_CTRUNC)) !== 0) {
        for (const fd of fds) close(fd);
        this.#finish(new Error("cannot receive a control message: it was cut short"), true);
        return;
      }
      const message = parse<In>(this.#incoming.subarray(0, received));
      if (message === undefined) {
        for (const fd of fds) close(fd);
        this.#finish(new Error("cannot understand a control message: it is no object in JSON"), true);
        return;
      }
      this.#events.message(message, fds, senderPid);
    }
  }

  #finish(error: Error | null, tell: boolean): void {
    if (!this.#open) return;
    this.#open = false;
    clearTimeout(this.#retry);
    this.#watch.close();
    check("close", close(this.fd), "a control channel");
    this.#flush();
    if (tell) this.#events.end(error);
  }
}

/** Undefined if it is no object: a faulty peer must not crash this process. */
function parse<T>(body: Uint8Array): T | undefined {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(body));
    return typeof value === "object" && value !== null ? (value as T) : undefined;
  } catch {
    return undefined;
  }
}
