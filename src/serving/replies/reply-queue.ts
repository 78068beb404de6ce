/**
 * Replies of a link without a journal: sent at once; what the socket does not take waits here, in order.
 *
 * For links that no other process can take over: those of an ordinary NBD server. The caller watches for EPOLLOUT while
 * the queue is not empty.
 */

import { type FileExtent, readSteadily, StaleReadError } from "../../source/source.ts";
import { ERRNO } from "../../sys/errno.ts";
import { MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, send, unsentBytes } from "../../sys/libc/sockets.ts";
import { FilePipe } from "./file-pipe.ts";
import { COPY_BYTES, type Replies } from "./replies.ts";

interface Unsent {
  readonly bytes: Uint8Array | undefined;
  readonly extent: FileExtent | undefined;
  readonly lengthBytes: number;
  doneBytes: number;
  /** What has not left of an extent is in the pipe, by reference. */
  isInPipe: boolean;
  /** A part has left by reference. */
  isShared: boolean;
}

const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
const BATCH_BYTES = 256 * 1024;
/** Copying costs the same up to 32 KiB, and a third more at 64 KiB. */
const FILE_MIN_BYTES = 48 * 1024;

export class ReplyQueue implements Replies {
  readonly batchBytes: number = BATCH_BYTES;
  readonly fileMinBytes: number = FILE_MIN_BYTES;
  readonly #fd: number;
  readonly #unsent: Unsent[] = [];
  /** Opened for the first large reply. */
  #pipe: FilePipe | undefined;
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

  /** The whole range is in the pipe before the header leaves, so that a file that fails costs one read and no link. */
  sendFile(header: Uint8Array, extent: FileExtent, lengthBytes: number): number | undefined {
    // The pipe holds one range at a time.
    if (this.needsFile) return undefined;
    this.#pipe ??= FilePipe.open();
    if (this.#pipe?.fill(extent, lengthBytes) !== true) return undefined;
    const result = this.#send(header, header.length, SEND_FLAGS | MSG_MORE, true);
    if (result < 0) return result;
    this.#unsent.push({
      bytes: undefined,
      extent,
      lengthBytes,
      doneBytes: 0,
      isInPipe: true,
      isShared: false,
    });
    return this.#unsent.length === 1 ? this.#sendQueue() : 0;
  }

  close(): void {
    this.#pipe?.close();
  }

  flush(): number {
    if (this.needsFile) this.#verifyWaiting();
    return this.#sendQueue();
  }

  /** Verifies the files whose data waits. Data that has not left is verified when it leaves. @throws SourceError */
  #verifyWaiting(): void {
    for (const unsent of this.#unsent) {
      try {
        unsent.extent?.owner.verify();
      } catch (error) {
        if (!(error instanceof StaleReadError) || this.#hasExposedPages) throw error;
        error.renew();
        this.#dropPages(unsent);
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
        isInPipe: false,
        isShared: false,
      });
    }
    return 0;
  }

  #sendSome(next: Unsent): number {
    const rest = (next.bytes as Uint8Array).subarray(next.doneBytes);
    return send(this.#fd, rest, rest.length, SEND_FLAGS);
  }

  #sendFileSome(next: Unsent, { offsetBytes, owner }: FileExtent): number {
    if (!owner.mayShare) this.#dropPages(next);
    const restBytes = next.lengthBytes - next.doneBytes;
    if (!next.isInPipe) return this.#copySome(restBytes, offsetBytes + next.doneBytes, owner);
    const sent = (this.#pipe as FilePipe).sendTo(this.#fd, restBytes);
    if (sent > 0) {
      this.#hasShared = true;
      next.isShared = true;
    }
    return sent === 0 ? -ERRNO.EIO : sent;
  }

  /** The rest of a reply that may not leave by reference any more. @throws SourceError */
  #copySome(restBytes: number, at: number, owner: FileExtent["owner"]): number {
    const piece = new Uint8Array(Math.min(restBytes, COPY_BYTES));
    const readPiece = (): void => {
      void owner.read(piece, at);
      owner.verify();
    };
    if (this.#hasExposedPages) readPiece();
    else readSteadily(readPiece);
    return send(this.#fd, piece, piece.length, SEND_FLAGS);
  }

  /** What has not left of a reply is copied from the file instead. */
  #dropPages(unsent: Unsent): void {
    if (!unsent.isInPipe) return;
    this.#pipe?.empty();
    unsent.isInPipe = false;
  }
}
