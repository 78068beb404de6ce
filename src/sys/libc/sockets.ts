/** System calls on sockets: socket(2), send(2), recv(2), getsockopt(2), and what a socket has not yet sent or read. */
import { bind, check, libc, result } from "./bind.ts";

const c = {
  socketpair: bind("int socketpair(int, int, int, void *)"),
  socket: bind("int socket(int, int, int)"),
  bind: bind("int bind(int, void *, uint32_t)"),
  listen: bind("int listen(int, int)"),
  connect: bind("int connect(int, void *, uint32_t)"),
  accept4: bind("int accept4(int, void *, void *, int)"),
  recv: bind("int64_t recv(int, void *, size_t, int)"),
  send: bind("int64_t send(int, void *, size_t, int)"),
  sendmsg: bind("int64_t sendmsg(int, void *, int)"),
  recvmsg: bind("int64_t recvmsg(int, void *, int)"),
  shutdown: bind("int shutdown(int, int)"),
  getsockopt: bind("int getsockopt(int, int, int, void *, void *)"),
  setsockopt: bind("int setsockopt(int, int, int, void *, uint32_t)"),
  getsockname: bind("int getsockname(int, void *, void *)"),
  poll: bind("int poll(void *, uint64_t, int)"),
  ioctlOut: libc.func("ioctl", "int", ["int", "uint64_t", "void *"]) as (...args: unknown[]) => number,
};

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_SEQPACKET = 5;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_TYPE = 3;
export const SO_SNDBUF = 7;
export const SO_KEEPALIVE = 9;
export const SO_PASSCRED = 16;
export const SO_PEERCRED = 17;
export const SO_ACCEPTCONN = 30;
export const SO_SNDBUFFORCE = 32;
export const IPPROTO_TCP = 6;
export const TCP_NODELAY = 1;
export const MSG_DONTWAIT = 0x40;
export const MSG_CTRUNC = 0x8;
export const MSG_TRUNC = 0x20;
export const MSG_NOSIGNAL = 0x4000;
export const MSG_MORE = 0x8000;
export const MSG_CMSG_CLOEXEC = 0x40000000;
export const SHUT_RDWR = 2;

/** A connected pair of unix sockets, both close-on-exec. @throws SystemError */
export function socketPair(type: number, flags = 0): [number, number] {
  const pair = new Int32Array(2);
  check("socketpair", result(c.socketpair(AF_UNIX, type | SOCK_CLOEXEC | flags, 0, pair)));
  return [pair[0] as number, pair[1] as number];
}

/** socket(2) with close-on-exec. */
export const socket = (family: number, type: number): number =>
  result(c.socket(family, type | SOCK_CLOEXEC, 0));

export const bindTo = (fd: number, address: Uint8Array): number =>
  result(c.bind(fd, address, address.length));

export const listen = (fd: number, backlog: number): number => result(c.listen(fd, backlog));

export const connectTo = (fd: number, address: Uint8Array): number =>
  result(c.connect(fd, address, address.length));

/** accept4(2); the new descriptor is close-on-exec and non-blocking. */
export const accept = (fd: number): number => result(c.accept4(fd, null, null, SOCK_CLOEXEC | SOCK_NONBLOCK));

export const recv = (fd: number, target: Uint8Array, lengthBytes: number, flags: number): number =>
  result(c.recv(fd, target, lengthBytes, flags));

export const send = (fd: number, source: Uint8Array, lengthBytes: number, flags: number): number =>
  result(c.send(fd, source, lengthBytes, flags));

export const sendmsg = (fd: number, header: Uint8Array, flags: number): number =>
  result(c.sendmsg(fd, header, flags));

export const recvmsg = (fd: number, header: Uint8Array, flags: number): number =>
  result(c.recvmsg(fd, header, flags));

/** An option that is an integer; -errno if there is none. */
export function socketOption(fd: number, level: number, name: number): number {
  const value = new Int32Array(1);
  const failed = result(c.getsockopt(fd, level, name, value, Uint32Array.of(4)));
  return failed < 0 ? failed : (value[0] as number);
}

/** More than a `struct sockaddr_un`. */
const ADDRESS_BYTES = 128;

/** The address of a socket, a `struct sockaddr_…`. @throws SystemError */
export function socketName(fd: number): Uint8Array {
  const address = new Uint8Array(ADDRESS_BYTES);
  const lengthBytes = Uint32Array.of(ADDRESS_BYTES);
  check("getsockname", result(c.getsockname(fd, address, lengthBytes)));
  return address.subarray(0, lengthBytes[0]);
}

export const shutdown = (fd: number, how: number): number => result(c.shutdown(fd, how));

/** Sets an integer socket option. */
export const setSocketOption = (fd: number, level: number, name: number, value: number): number =>
  result(c.setsockopt(fd, level, name, Int32Array.of(value), 4));

/** Grows the send buffer of a socket. Only CAP_NET_ADMIN may exceed the system's limit. */
export function growSendBuffer(fd: number, sizeBytes: number): void {
  // The kernel doubles the value and reports the double. A second call without the capability would shrink it.
  if (sendBufferBytes(fd) >= 2 * sizeBytes) return;
  if (setSocketOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, sizeBytes) < 0)
    setSocketOption(fd, SOL_SOCKET, SO_SNDBUF, sizeBytes);
}

/** The send buffer of a socket, as the kernel counts it. @throws SystemError */
export function sendBufferBytes(fd: number): number {
  const size = new Int32Array(1);
  check("getsockopt SO_SNDBUF", result(c.getsockopt(fd, SOL_SOCKET, SO_SNDBUF, size, Uint32Array.of(4))));
  return size[0] as number;
}

/** Credentials of the peer of a unix socket (`struct ucred`, socket(7) SO_PEERCRED). @throws SystemError */
export function peerCredentials(fd: number): { pid: number; uid: number; gid: number } {
  const credentials = new Int32Array(3);
  check(
    "getsockopt SO_PEERCRED",
    result(c.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, Uint32Array.of(12))),
  );
  return { pid: credentials[0] as number, uid: credentials[1] as number, gid: credentials[2] as number };
}

const FIONREAD = 0x541b;
const SIOCOUTQ = 0x5411;

const count = new Int32Array(1);

const countBytes = new Uint8Array(count.buffer);

/** Bytes that can be read from a socket or a pipe now (FIONREAD). @throws SystemError */
export function unreadBytes(fd: number): number {
  check("ioctl FIONREAD", result(c.ioctlOut(fd, FIONREAD, countBytes)));
  return count[0] as number;
}

/** Memory of data that the peer of a unix socket has not read (SIOCOUTQ); 0 if it has read all. @throws SystemError */
export function unsentBytes(fd: number): number {
  check("ioctl SIOCOUTQ", result(c.ioctlOut(fd, SIOCOUTQ, countBytes)));
  return count[0] as number;
}

const pollHandle = new Int16Array(4);

const pollFd = new Int32Array(pollHandle.buffer, 0, 1);
const POLLERR_POLLHUP_POLLRDHUP = 0x8 | 0x10 | 0x2000;

/** Whether a socket's peer has closed it, or the socket was shut down (poll(2) without waiting). */
export function isHungUp(fd: number): boolean {
  pollFd[0] = fd;
  pollHandle[2] = 0x2000;
  pollHandle[3] = 0;
  return (
    c.poll(new Uint8Array(pollHandle.buffer), 1, 0) > 0 &&
    ((pollHandle[3] ?? 0) & POLLERR_POLLHUP_POLLRDHUP) !== 0
  );
}
