/**
 * Accepts connections on a listening socket. Used by the NBD server, the control socket and workers.
 *
 * A process without free descriptors cannot accept, and a connection that stays in the queue is reported again and
 * again. So one descriptor is kept in reserve. It is closed for a moment to accept such a connection and to close it.
 */
import { openSync } from "node:fs";
import { ERRNO, errnoName } from "../errno.ts";
import { close } from "../libc/files.ts";
import { accept } from "../libc/sockets.ts";
import { type Watch, watchReadable } from "../watch.ts";

export interface AcceptorEvents {
  /** A new connection, non-blocking; belongs to the listener. */
  connection(fd: number): void;
  /** A connection was lost, and why. */
  trouble(message: string): void;
}

const CONNECTIONS_AT_ONCE = 64;

export class Acceptor {
  readonly #listenFd: number;
  readonly #events: AcceptorEvents;
  readonly #watch: Watch;
  #reserveFd: number;

  /** Takes over the listening socket, which is non-blocking. */
  constructor(listenFd: number, events: AcceptorEvents) {
    this.#listenFd = listenFd;
    this.#events = events;
    this.#reserveFd = openReserve();
    this.#watch = watchReadable(listenFd, () => this.#acceptAll());
  }

  /** Lets the process end all the same. */
  unref(): void {
    this.#watch.unref();
  }

  close(): void {
    this.#watch.close();
    close(this.#listenFd);
    if (this.#reserveFd >= 0) close(this.#reserveFd);
  }

  #acceptAll(): void {
    // The remaining ones are reported again.
    for (let left = CONNECTIONS_AT_ONCE; left > 0; left -= 1) {
      const fd = accept(this.#listenFd);
      if (fd >= 0) this.#events.connection(fd);
      else if (fd === -ERRNO.EMFILE || fd === -ERRNO.ENFILE) {
        if (!this.#turnAway(-fd)) return;
      } else if (fd !== -ERRNO.EINTR && fd !== -ERRNO.ECONNABORTED) {
        if (fd !== -ERRNO.EAGAIN) this.#events.trouble(`cannot accept a connection: ${errnoName(-fd)}`);
        return;
      }
    }
  }

  /** Accepts one connection with the reserved descriptor and closes it. False without a connection or a reserve. */
  #turnAway(errno: number): boolean {
    if (this.#reserveFd < 0) return false;
    close(this.#reserveFd);
    const fd = accept(this.#listenFd);
    if (fd >= 0) close(fd);
    this.#reserveFd = openReserve();
    if (fd >= 0) this.#events.trouble(`Closed a connection at once: ${errnoName(errno)}, no free descriptor`);
    return fd >= 0;
  }
}

/** -1 if there is none. */
function openReserve(): number {
  try {
    return openSync("/dev/null", "r");
  } catch {
    return -1;
  }
}
