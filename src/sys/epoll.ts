/**
 * An epoll instance whose events carry a small integer of the caller, the poll token.
 *
 * There is one per worker. libuv watches the epoll descriptor itself and not the sockets, so that these keep their
 * blocking mode. `wait` reuses its event buffer: read the events before the next call.
 */
import { check } from "./libc/bind.ts";
import { epollCreate, epollCtl, epollWait } from "./libc/epoll.ts";
import { close } from "./libc/files.ts";

export const EPOLLIN = 0x1;
export const EPOLLOUT = 0x4;
export const EPOLLERR = 0x8;
export const EPOLLHUP = 0x10;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;

/** `struct epoll_event` is packed on x86-64 only (eventpoll.h, EPOLL_PACKED). */
const EVENT_BYTES = process.arch === "x64" ? 12 : 16;
const DATA_AT = process.arch === "x64" ? 4 : 8;
const MAX_EVENTS = 64;

export class Epoll {
  readonly fd: number = epollCreate();
  readonly #event = new Uint32Array(4);
  readonly #eventBytes = new Uint8Array(this.#event.buffer);
  readonly #events = new Uint8Array(EVENT_BYTES * MAX_EVENTS);
  readonly #view = new Uint32Array(this.#events.buffer);

  /** Starts watching `fd` for `interest`; events report `token`. @throws SystemError */
  add(fd: number, interest: number, token: number): void {
    check("epoll_ctl ADD", epollCtl(this.fd, EPOLL_CTL_ADD, fd, this.#fill(interest, token)));
  }

  /** Changes what is watched. @throws SystemError */
  modify(fd: number, interest: number, token: number): void {
    check("epoll_ctl MOD", epollCtl(this.fd, EPOLL_CTL_MOD, fd, this.#fill(interest, token)));
  }

  /** Stops watching. Closing is not enough: a duplicate of the socket in another process keeps the entry alive. */
  remove(fd: number): void {
    epollCtl(this.fd, EPOLL_CTL_DEL, fd, null);
  }

  /** Waits at most `timeoutMs` and returns the number of events; 0 also if a signal interrupted it. */
  wait(timeoutMs: number): number {
    return Math.max(0, epollWait(this.fd, this.#events, MAX_EVENTS, timeoutMs));
  }

  tokenAt(index: number): number {
    return this.#view[(index * EVENT_BYTES + DATA_AT) >> 2] as number;
  }

  eventsAt(index: number): number {
    return this.#view[(index * EVENT_BYTES) >> 2] as number;
  }

  close(): void {
    close(this.fd);
  }

  #fill(interest: number, token: number): Uint8Array {
    this.#event[0] = interest;
    this.#event[DATA_AT >> 2] = token;
    return this.#eventBytes;
  }
}
