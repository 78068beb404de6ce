/**
 * Kernel ends of links that were replaced, kept open until the kernel has surely let go of their sockets.
 *
 * LinkSet adds them. Without the open descriptor the kernel may kill a fresh socket, or use the old one after it was
 * freed (nbd.c, recv_work).
 */
import { close } from "../../sys/libc/files.ts";

/** How long an old kernel end stays open after RECONFIGURE has replaced its socket. */
const RETAIN_MS = 1000;

export class RetiredKernelEnds {
  #ends: Array<{ readonly fd: number; readonly used: boolean }> = [];

  /** `used`: a request has come over the link, so the kernel surely had the socket. */
  add(fd: number, used: boolean): void {
    this.#ends.push({ fd, used });
  }

  /**
   * The kernel was offered fresh sockets. If it has taken them, all old ends close after RETAIN_MS. If it has not, only
   * those that it never used close: the others are kept until the next offer.
   */
  offered(taken: boolean): void {
    const closing = this.#ends.filter(({ used }) => taken || !used);
    this.#ends = this.#ends.filter((end) => !closing.includes(end));
    setTimeout(() => {
      for (const { fd } of closing) close(fd);
    }, RETAIN_MS).unref();
  }
}
