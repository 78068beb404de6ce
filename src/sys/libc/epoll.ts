/** epoll(7); epoll.ts in the folder above is its user. */
import { bind, check, result } from "./bind.ts";

const c = {
  epollCreate: bind("int epoll_create1(int)"),
  epollCtl: bind("int epoll_ctl(int, int, int, void *)"),
  epollWait: bind("int epoll_wait(int, void *, int, int)"),
};

export const epollCreate = (): number => check("epoll_create1", result(c.epollCreate(0o2000000)));

export const epollCtl = (epollFd: number, operation: number, fd: number, event: Uint8Array | null): number =>
  result(c.epollCtl(epollFd, operation, fd, event));

export const epollWait = (epollFd: number, events: Uint8Array, count: number, timeoutMs: number): number =>
  result(c.epollWait(epollFd, events, count, timeoutMs));
