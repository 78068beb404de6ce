/**
 * A ServedLink that the test drives itself: it sends bytes, lets the link handle them and looks at what came back, all
 * without the event loop, so that every split and every order can be had on purpose.
 *
 * The wire is written by hand (see mini-nbd-client.ts for the reason).
 */

import type { JournaledLink } from "../../../src/serving/link-context.ts";
import { Pump } from "../../../src/serving/pump.ts";
import { ServedLink } from "../../../src/serving/served-link.ts";
import type { Source } from "../../../src/source/source.ts";
import { EPOLLIN, EPOLLOUT } from "../../../src/sys/epoll.ts";
import { ERRNO } from "../../../src/sys/errno.ts";
import { close } from "../../../src/sys/libc/files.ts";
import {
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  recv,
  SO_SNDBUF,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  send,
  setSocketOption,
  socketPair,
} from "../../../src/sys/libc/sockets.ts";
import type { LinkEnd } from "../../../src/worker-protocol/link-end.ts";

const MSG_PEEK = 0x2;

/** One reply, taken apart. */
export interface Reply {
  readonly errno: number;
  readonly cookie: bigint;
  readonly data: Buffer;
}

export interface HandDrivenOptions {
  readonly copyOnly?: boolean;
  readonly journal?: JournaledLink;
  readonly structured?: { readonly allocation: boolean };
}

export class HandDrivenLink {
  readonly link: ServedLink;
  readonly peerFd: number;
  readonly ends: LinkEnd[] = [];
  readonly errors: Error[] = [];
  firstRequests = 0;
  /** The link's own end, while it is open. */
  readonly serverFd: number;
  readonly #pump = new Pump();
  readonly #received: Buffer[] = [];
  readonly #piece = new Uint8Array(1 << 20);
  #peerOpen = true;

  constructor(source: Source, options: HandDrivenOptions = {}) {
    const [fd, peerFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
    this.peerFd = peerFd;
    this.link = new ServedLink(
      fd,
      this.#pump,
      { source, ...options },
      {
        firstRequest: () => {
          this.firstRequests += 1;
        },
        readError: (error) => this.errors.push(error),
        end: (end) => this.ends.push(end),
      },
    );
    this.serverFd = fd;
  }

  /** Makes the socket to the peer as small as the kernel allows: replies then have to wait. */
  shrinkSocket(): void {
    setSocketOption(this.serverFd, SOL_SOCKET, SO_SNDBUF, 1);
  }

  /** Sends without letting the link see it yet. @throws Error when the socket does not take it */
  put(bytes: Uint8Array): void {
    const sent = send(this.peerFd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent !== bytes.length) throw new Error(`the socket took ${sent} of ${bytes.length} bytes`);
  }

  /** Lets the link handle what is there, as the pump does on an event. */
  turn(events: number = EPOLLIN | EPOLLOUT): void {
    if (this.ends.length === 0) this.link.onEvents(events);
  }

  /** Sends and lets the link handle it; payloads beyond the socket's size in several goes. */
  say(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const rest = bytes.subarray(at);
      const sent = send(this.peerFd, rest, rest.length, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent > 0) at += sent;
      else if (sent !== -ERRNO.EAGAIN) return; // the link was cut: the test looks at `ends`
      this.turn();
    }
  }

  /** Everything the link has sent since the last call, and lets it go on until it has no more to say. */
  hear(): Buffer {
    for (let silent = 0; silent < 2; ) {
      const got = recv(this.peerFd, this.#piece, this.#piece.length, MSG_DONTWAIT);
      if (got > 0) {
        this.#received.push(Buffer.from(this.#piece.subarray(0, got)));
        silent = 0;
      } else {
        silent += 1;
        this.turn();
      }
    }
    return Buffer.concat(this.#received.splice(0));
  }

  /** `hear`, taken apart; `dataBytes` tells how long the data of an error-free reply to `cookie` is. */
  replies(dataBytes: (cookie: bigint) => number): Reply[] {
    return parseReplies(this.hear(), dataBytes);
  }

  /** Whether nothing has arrived at the peer that was not heard yet; the link gets no turn. */
  hearNothing(): boolean {
    return recv(this.peerFd, this.#piece, 1, MSG_DONTWAIT | MSG_PEEK) === -ERRNO.EAGAIN;
  }

  /** Whether the link's side of the socket is closed, once everything has been heard. */
  atEnd(): boolean {
    return recv(this.peerFd, this.#piece, 1, MSG_DONTWAIT) === 0;
  }

  closePeer(): void {
    if (!this.#peerOpen) return;
    this.#peerOpen = false;
    close(this.peerFd);
  }

  /** Closes everything, in any state. */
  dispose(): void {
    this.link.close();
    this.closePeer();
    this.#pump.close();
  }
}

/** Takes a stream of simple replies apart. @throws Error on anything that is not whole replies */
export function parseReplies(stream: Buffer, dataBytes: (cookie: bigint) => number): Reply[] {
  const replies: Reply[] = [];
  for (let at = 0; at < stream.length; ) {
    if (stream.length - at < 16) throw new Error(`${stream.length - at} bytes are no reply`);
    if (stream.readUInt32BE(at) !== 0x67446698) throw new Error(`no reply at byte ${at}`);
    const errno = stream.readUInt32BE(at + 4);
    const cookie = stream.readBigUInt64BE(at + 8);
    const length = errno === 0 ? dataBytes(cookie) : 0;
    const data = stream.subarray(at + 16, at + 16 + length);
    if (data.length !== length) throw new Error(`the reply to ${cookie} ends after ${data.length} bytes`);
    replies.push({ errno, cookie, data });
    at += 16 + length;
  }
  return replies;
}
