/**
 * Replies of a link without a journal: sent at once; what the socket does not take waits here, in order.
 *
 * For links that no other process can take over: those of an ordinary NBD server. The caller watches for EPOLLOUT while
 * the queue is not empty.
 */

import { type FileExtent, readSteadily, SourceError, StaleReadError } from "../../source/source.ts";
import { ERRNO } from "../../sys/errno.ts";
import { sendfile } from "../../sys/libc/files.ts";
import { MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, send, unsentBytes } from "../../sys/libc/sockets.ts";
import { COPY_BYTES, type Replies } from "./replies.ts";

interface Unsent {
  readonly bytes: Uint8Array | undefined;
  readonly extent: FileExtent | undefined;
  readonly lengthBytes: number;
  doneBytes: number;
  /** A part has left by reference. */
  isShared: boolean;
}

const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
/** A header whose data follows in another call. */
const HEADER_BYTES = 16;
const BATCH_BYTES = 256 * 1024;
/** Copying costs the same up to 32 KiB, and a third more at 64 KiB. */
const FILE_MIN_BYTES = 48 * 1024;

export class ReplyQueue implements Replies {
  readonly batchBytes: number = BATCH_BYTES;
  readonly fileMinBytes: number = FILE_MIN_BYTES;
  readonly #fd: number;
  readonly #unsent: Unsent[] = [];
  #hasShared = false;

  constructor(fd: number) {
    this.#fd = fd;
  }

  get isEmpty(): boolean {
    return this.#unsent.length === 0;
  }

  get sharesPages(): boolean {
    this.#hasShared &&= unsentBytes(this.#fd) > 0;
    return this.#hasShared;
  }

  get needsFile(): boolean {
    return this.#unsent.some((unsent) => unsent.extent !== undefined);
  }

  sendBatch(bytes: Uint8Array, lengthBytes: number): number {
    return this.#send(bytes, lengthBytes, SEND_FLAGS, true);
  }

  sendOwned(reply: Uint8Array): number {
    return this.#send(reply, reply.length, SEND_FLAGS, false);
  }

  /** The header leaves first: if the file ends or fails after that, the link must be cut. */
  sendFile(header: Uint8Array, extent: FileExtent, lengthBytes: number): number {
    const result = this.#send(header, HEADER_BYTES, SEND_FLAGS | MSG_MORE, true);
    if (result < 0) return result;
    this.#unsent.push({ bytes: undefined, extent, lengthBytes, doneBytes: 0, isShared: false });
    return this.#unsent.length === 1 ? this.#sendQueue() : 0;
  }

  flush(): number {
    if (this.needsFile) this.#verifyWaiting();
    return this.#sendQueue();
  }

  /** Verifies the files whose data waits. Data that has not left is verified when it leaves. @throws SourceError */
  #verifyWaiting(): void {
    for (const { extent } of this.#unsent) {
      try {
        extent?.owner.verify();
      } catch (error) {
        if (!(error instanceof StaleReadError) || this.#hasExposedPages) throw error;
        error.renew();
      }
    }
  }

  /**
   * Whether the peer has read, or may read from the socket, pages of the file by reference. If the file is touched,
   * their contents may have been different for a moment: only cutting the link keeps the peer from using them.
   */
  get #hasExposedPages(): boolean {
    return this.#unsent[0]?.isShared === true || this.sharesPages;
  }

  #sendQueue(): number {
    for (;;) {
      const next = this.#unsent[0];
      if (next === undefined) return 0;
      while (next.doneBytes < next.lengthBytes) {
        const sent = next.extent === undefined ? this.#sendSome(next) : this.#sendFileSome(next, next.extent);
        if (sent === -ERRNO.EAGAIN) return 0;
        if (sent < 0 && sent !== -ERRNO.EINTR) return sent;
        if (sent > 0) next.doneBytes += sent;
      }
      this.#unsent.shift();
    }
  }

  #send(bytes: Uint8Array, lengthBytes: number, flags: number, copy: boolean): number {
    let done = 0;
    while (this.isEmpty && done < lengthBytes) {
      const sent = send(this.#fd, done === 0 ? bytes : bytes.subarray(done), lengthBytes - done, flags);
      if (sent === -ERRNO.EAGAIN) break;
      if (sent < 0 && sent !== -ERRNO.EINTR) return sent;
      if (sent > 0) done += sent;
    }
    if (done < lengthBytes) {
      const rest = copy ? bytes.slice(done, lengthBytes) : bytes.subarray(done, lengthBytes);
      this.#unsent.push({
        bytes: rest,
        extent: undefined,
        lengthBytes: rest.length,
        doneBytes: 0,
        isShared: false,
      });
    }
    return 0;
  }

  #sendSome(next: Unsent): number {
    const rest = (next.bytes as Uint8Array).subarray(next.doneBytes);
    return send(this.#fd, rest, rest.length, SEND_FLAGS);
  }

  #sendFileSome(next: Unsent, { fd, offsetBytes, owner }: FileExtent): number {
    const at = offsetBytes + next.doneBytes;
    const restBytes = next.lengthBytes - next.doneBytes;
    if (!owner.mayShare) {
      const piece = new Uint8Array(Math.min(restBytes, COPY_BYTES));
      const readPiece = (): void => {
        void owner.read(piece, at);
        owner.verify();
      };
      if (this.#hasExposedPages) readPiece();
      else readSteadily(readPiece);
      return send(this.#fd, piece, piece.length, SEND_FLAGS);
    }
    const sent = sendfile(this.#fd, fd, at, restBytes);
    if (sent > 0) {
      this.#hasShared = true;
      next.isShared = true;
    }
    if (sent === 0) throw new SourceError("cannot finish a reply: the file ended inside it");
    if (sent === -ERRNO.EIO) throw new SourceError("cannot finish a reply: reading the file failed");
    // The lease may have ended during a slow read: then the peer must not use what it has received.
    owner.verify();
    return sent;
  }
}
