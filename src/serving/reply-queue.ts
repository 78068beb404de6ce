/**
 * How replies leave, without a journal: at once, and what the socket does not take waits here, in order.
 *
 * For links that nobody could take over (an ordinary NBD server's). Sends without blocking; whoever uses it watches for
 * EPOLLOUT while it is not empty.
 */

import { type FileExtent, readSteadily, SourceError, StaleReadError } from "../source/source.ts";
import { ERRNO } from "../sys/errno.ts";
import { MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, send, sendfile, unsentBytes } from "../sys/libc.ts";

interface Unsent {
  readonly bytes: Uint8Array | undefined;
  readonly extent: FileExtent | undefined;
  readonly lengthBytes: number;
  doneBytes: number;
  /** A part has left by reference. */
  isShared: boolean;
}

const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
/** A header that its data follows in another call. */
const HEAD_BYTES = 16;
const BATCH_BYTES = 256 * 1024;
/** From this size on a reply goes from the page cache: copying is as cheap up to 32 KiB, and a third dearer at 64 KiB. */
const FILE_MIN_BYTES = 48 * 1024;
/** Copied at once of a file whose pages may not leave by reference any more. */
const PIECE_BYTES = 256 * 1024;

/** The way out of a link, as the read-serving loop sees it. Slots name the requests that the bytes answer. */
export interface Replies {
  readonly isEmpty: boolean;
  /** Whether the peer has yet to read pages of a file that were sent by reference. Asks the kernel, if any were since it said no. */
  readonly sharesPages: boolean;
  /** Whether data of a file is among the replies that wait. */
  readonly needsFile: boolean;
  /** How much the loop may gather for one `sendBatch`. */
  readonly batchBytes: number;
  /** Data of at least this size is better sent with `sendFile`. */
  readonly fileMinBytes: number;
  /** Sends from a buffer that the caller uses again. Returns 0 or -errno (the peer is gone). */
  sendBatch(bytes: Uint8Array, lengthBytes: number, slots: readonly number[]): number;
  /** Sends one reply in a buffer that is given away with the call. Returns 0 or -errno. */
  sendOwned(reply: Uint8Array, slot: number): number;
  /**
   * Sends a header and a stretch of a file from the page cache. Returns 0 or -errno.
   * @throws UnsentReplyError when the file fails and nothing has left; SourceError when the link has to be cut
   */
  sendFile(header: Uint8Array, extent: FileExtent, lengthBytes: number, slot: number): number;
  /**
   * Sends what has waited, after a look at the file it comes from, for as long as the socket takes it. Returns 0 or
   * -errno. @throws SourceError when the link has to be cut
   */
  flush(): number;
}

/** A file failed before any of the reply had left: an error can still be the answer. */
export class UnsentReplyError extends SourceError {}

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

  /** The header leaves first: if the file then ends or fails, the link must be cut. */
  sendFile(header: Uint8Array, extent: FileExtent, lengthBytes: number): number {
    const result = this.#send(header, HEAD_BYTES, SEND_FLAGS | MSG_MORE, true);
    if (result < 0) return result;
    this.#unsent.push({ bytes: undefined, extent, lengthBytes, doneBytes: 0, isShared: false });
    return this.#unsent.length === 1 ? this.#sendQueue() : 0;
  }

  flush(): number {
    if (this.needsFile) this.#verifyWaiting();
    return this.#sendQueue();
  }

  /** Verifies the files whose data waits. What has not left is copied and verified when it leaves. @throws SourceError */
  #verifyWaiting(): void {
    for (const { extent } of this.#unsent) {
      try {
        extent?.owner.verify();
      } catch (error) {
        if (!(error instanceof StaleReadError) || this.#mayBelieveTouched) throw error;
        error.renew();
      }
    }
  }

  /**
   * Whether the peer has read, or may read from the socket, pages of a touched file by reference: their contents may
   * have been those of a moment in between, so that only cutting the link keeps the peer from using them.
   */
  get #mayBelieveTouched(): boolean {
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
      const piece = new Uint8Array(Math.min(restBytes, PIECE_BYTES));
      const readPiece = (): void => {
        void owner.read(piece, at);
        owner.verify();
      };
      if (this.#mayBelieveTouched) readPiece();
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
    // Reading may have taken so long that the lease has ended meanwhile: then the peer must not believe what it got.
    owner.verify();
    return sent;
  }
}
