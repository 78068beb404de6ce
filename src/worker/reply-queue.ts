/**
 * Replies that a socket did not take at once: bytes, or a stretch of a file, in order.
 *
 * Belongs to one link. Sends without blocking; whoever uses it watches for EPOLLOUT while it is not empty.
 */

import { type FileExtent, SourceError } from "../source/source.ts";
import { ERRNO } from "../sys/errno.ts";
import { MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, send, sendfile } from "../sys/libc.ts";

interface Unsent {
  readonly bytes: Uint8Array | undefined;
  readonly extent: FileExtent | undefined;
  readonly lengthBytes: number;
  doneBytes: number;
}

const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;

export class ReplyQueue {
  readonly #fd: number;
  readonly #unsent: Unsent[] = [];

  constructor(fd: number) {
    this.#fd = fd;
  }

  get isEmpty(): boolean {
    return this.#unsent.length === 0;
  }

  /** Whether something waits that is still to be read from a file. */
  get needsFile(): boolean {
    return this.#unsent.some((unsent) => unsent.extent !== undefined);
  }

  /** Sends from a buffer that the caller uses again: what the socket does not take is copied. Returns 0 or -errno. */
  sendShared(bytes: Uint8Array, lengthBytes: number, more = false): number {
    return this.#send(bytes, lengthBytes, more ? SEND_FLAGS | MSG_MORE : SEND_FLAGS, true);
  }

  /** Sends a buffer that is given away with the call. Returns 0 or -errno (the peer is gone). */
  sendOwned(bytes: Uint8Array): number {
    return this.#send(bytes, bytes.length, SEND_FLAGS, false);
  }

  /**
   * Sends a stretch of a file from the page cache, behind whatever waits already.
   * @throws SourceError when the file ends or fails inside it: the reply's header has left, so the link must be cut
   */
  sendExtent(extent: FileExtent, lengthBytes: number): number {
    this.#unsent.push({ bytes: undefined, extent, lengthBytes, doneBytes: 0 });
    return this.#unsent.length === 1 ? this.flush() : 0;
  }

  /** Sends what waits for as long as the socket takes it. Returns 0 or a negative errno. @throws SourceError */
  flush(): number {
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
      this.#unsent.push({ bytes: rest, extent: undefined, lengthBytes: rest.length, doneBytes: 0 });
    }
    return 0;
  }

  #sendSome(next: Unsent): number {
    const rest = (next.bytes as Uint8Array).subarray(next.doneBytes);
    return send(this.#fd, rest, rest.length, SEND_FLAGS);
  }

  #sendFileSome(next: Unsent, extent: FileExtent): number {
    const sent = sendfile(
      this.#fd,
      extent.fd,
      extent.offsetBytes + next.doneBytes,
      next.lengthBytes - next.doneBytes,
    );
    if (sent === 0) throw new SourceError("Cannot finish a reply: the file ended inside it");
    if (sent === -ERRNO.EIO) throw new SourceError("Cannot finish a reply: reading the file failed");
    return sent;
  }
}
