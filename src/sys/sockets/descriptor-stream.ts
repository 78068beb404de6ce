/**
 * Receives and sends descriptors with the bytes of a unix stream socket (SCM_RIGHTS, unix(7)).
 *
 * Used by the control socket. Node's streams do not receive descriptors, and the kernel closes them then. The server
 * reads through a DescriptorReader, the client sends a line with a descriptor by `sendWithDescriptor`.
 */
import { ERRNO, SystemError } from "../errno.ts";
import { close } from "../libc/files.ts";
import {
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  recvmsg,
  sendmsg,
} from "../libc/sockets.ts";
import { type Watch, watchReadable } from "../watch.ts";
import { MessageHeader } from "./message-header.ts";

/** One more than any message has, so that a surplus is noticed. The kernel closes further ones. */
const MAX_FDS = 2;
const CHUNK_BYTES = 64 << 10;
/** The remaining ones are reported again: a peer that sends without a pause must not starve others. */
const CHUNKS_AT_ONCE = 4;

export interface DescriptorReaderEvents {
  /**
   * Bytes of the stream, and the descriptors that came with one of them. The handler owns the descriptors. `wasCut`:
   * there were more descriptors than a message may have, or this process had no free ones.
   */
  data(chunk: Uint8Array, fds: readonly number[], wasCut: boolean): void;
  /** The peer has closed its side, or the connection failed. Called once. */
  end(): void;
}

/** Shared by all readers: a chunk is copied before the next one is received. */
const incoming = new Uint8Array(CHUNK_BYTES);
const receiveHeader = new MessageHeader(MAX_FDS, false);

export class DescriptorReader {
  readonly #fd: number;
  readonly #events: DescriptorReaderEvents;
  #watch: Watch | undefined;
  #open = true;
  #hasEnded = false;

  /** Takes over the descriptor, which may be a duplicate of one that a Node stream writes to. */
  constructor(fd: number, events: DescriptorReaderEvents) {
    this.#fd = fd;
    this.#events = events;
    this.resume();
  }

  get isPaused(): boolean {
    return this.#watch === undefined;
  }

  pause(): void {
    this.#watch?.close();
    this.#watch = undefined;
  }

  resume(): void {
    if (this.#open && !this.#hasEnded) this.#watch ??= watchReadable(this.#fd, () => this.#drain());
  }

  /** Closes the descriptor. Idempotent. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.pause();
    close(this.#fd);
  }

  #drain(): void {
    for (let left = CHUNKS_AT_ONCE; left > 0 && this.#watch !== undefined; left -= 1) {
      const received = recvmsg(
        this.#fd,
        receiveHeader.toReceive(incoming),
        MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_NOSIGNAL,
      );
      if (received === -ERRNO.EINTR) continue;
      if (received === -ERRNO.EAGAIN) return;
      if (received <= 0) {
        this.pause();
        this.#hasEnded = true;
        this.#events.end();
        return;
      }
      const wasCut = (receiveHeader.flags & MSG_CTRUNC) !== 0;
      this.#events.data(incoming.slice(0, received), receiveHeader.received().fds, wasCut);
    }
  }
}

/**
 * Sends bytes with a descriptor. The peer gets a duplicate with the first byte; the caller keeps its own.
 * Returns how many were taken; 0 when the socket is full, and nothing was sent. @throws SystemError
 */
export function sendWithDescriptor(socketFd: number, body: Uint8Array, fd: number): number {
  const header = new MessageHeader(1, false);
  const sent = sendmsg(socketFd, header.toSend(body, [fd]), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0) return sent;
  if (sent === -ERRNO.EAGAIN || sent === -ERRNO.ENOBUFS || sent === -ERRNO.EINTR) return 0;
  throw new SystemError("send a descriptor to the manager", -sent);
}
