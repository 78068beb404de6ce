/**
 * The pipe of a link without a journal: a range of a file enters it whole, by reference, before the reply's header
 * leaves. So a read that fails still gets an error as its answer, and an error of the file is never taken for one of
 * the socket.
 *
 * Made and driven by ReplyQueue. Holds one range at a time.
 */
import type { FileExtent } from "../../source/source.ts";
import { ERRNO } from "../../sys/errno.ts";
import { close } from "../../sys/libc/files.ts";
import { growPipe, pipe, spliceFromFile, spliceToSocket } from "../../sys/libc/pipes.ts";
import { emptyPipe, type ReplyPipe } from "./pipe-job.ts";

/** Larger ranges are copied. Without CAP_SYS_RESOURCE the system's limit, usually 1 MiB, is lower. */
const MAX_PIPE_BYTES = 4 * 1024 * 1024;
/** A pipe of `n` pages takes `n` pieces, each in one page of the file. */
const PAGE_BYTES = 4096;

export class FilePipe {
  readonly #pipe: ReplyPipe;
  readonly #roomBytes: number;

  private constructor(ends: ReplyPipe) {
    this.#pipe = ends;
    this.#roomBytes = growPipe(ends.writeFd, MAX_PIPE_BYTES);
  }

  /** Undefined when no pipe can be had, as without free descriptors. */
  static open(): FilePipe | undefined {
    try {
      const [readFd, writeFd] = pipe();
      return new FilePipe({ readFd, writeFd });
    } catch {
      return undefined;
    }
  }

  /**
   * Puts a whole range into the pipe and verifies it. False, with the pipe empty, if that is not possible for any
   * reason: the caller then reads it, which says what is wrong.
   */
  fill({ fd, offsetBytes, owner }: FileExtent, lengthBytes: number): boolean {
    if ((offsetBytes % PAGE_BYTES) + lengthBytes > this.#roomBytes) return false;
    let doneBytes = 0;
    while (doneBytes < lengthBytes && owner.mayShare) {
      const got = spliceFromFile(fd, offsetBytes + doneBytes, this.#pipe.writeFd, lengthBytes - doneBytes);
      if (got === -ERRNO.EINTR) continue;
      if (got <= 0) break;
      doneBytes += got;
    }
    if (doneBytes === lengthBytes && isVerified(owner)) return true;
    if (doneBytes > 0) this.empty();
    return false;
  }

  /** Moves bytes into a socket, as many as it takes. Returns how many, or -errno of the socket. */
  sendTo(socketFd: number, lengthBytes: number): number {
    return spliceToSocket(this.#pipe.readFd, socketFd, lengthBytes);
  }

  empty(): void {
    emptyPipe(this.#pipe);
  }

  close(): void {
    close(this.#pipe.readFd);
    close(this.#pipe.writeFd);
  }
}

function isVerified(owner: FileExtent["owner"]): boolean {
  try {
    owner.verify();
    return true;
  } catch {
    return false;
  }
}
