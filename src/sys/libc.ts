/**
 * Thin functions over system calls: the only place in src/ that binds libc. netlink/ has its own.
 *
 * A function returns the result of its call, or the negative errno. It does not throw, because EAGAIN is normal on the
 * read path, unless its comment says so. `check` turns a negative result into a SystemError. Buffers are not used after
 * the call has returned. A call blocks the calling thread only if its descriptor is blocking.
 */
import koffi from "koffi";
import { ERRNO, SystemError } from "./errno.ts";

const libc = koffi.load(null);
const bind = (signature: string): ((...args: unknown[]) => number) => libc.func(signature);

const c = {
  close: bind("int close(int)"),
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
  pread: bind("int64_t pread(int, void *, size_t, int64_t)"),
  sendfile: bind("int64_t sendfile(int, int, void *, size_t)"),
  splice: bind("int64_t splice(int, void *, int, void *, size_t, uint32_t)"),
  pipe2: bind("int pipe2(void *, int)"),
  write: bind("int64_t write(int, void *, size_t)"),
  read: bind("int64_t read(int, void *, size_t)"),
  mlock: bind("int mlock(void *, size_t)"),
  statx: bind("int statx(int, const char *, int, uint32_t, void *)"),
  fcntl: bind("int fcntl(int, int, int)"),
  flock: bind("int flock(int, int)"),
  fstatfs: bind("int fstatfs(int, void *)"),
  poll: bind("int poll(void *, uint64_t, int)"),
  ioctl: bind("int ioctl(int, uint64_t, uint64_t)"),
  mmap: libc.func("void *mmap(void *, size_t, int, int, int, int64_t)") as (...args: unknown[]) => bigint,
  munmap: bind("int munmap(void *, size_t)"),
  posixFallocate: bind("int posix_fallocate(int, int64_t, int64_t)"),
  ioctlOut: libc.func("ioctl", "int", ["int", "uint64_t", "void *"]) as (...args: unknown[]) => number,
  epollCreate: bind("int epoll_create1(int)"),
  epollCtl: bind("int epoll_ctl(int, int, int, void *)"),
  epollWait: bind("int epoll_wait(int, void *, int, int)"),
  getuid: bind("uint32_t geteuid()"),
  prctl: bind("int prctl(int, uint64_t, uint64_t, uint64_t, uint64_t)"),
  syscall: bind("int64_t syscall(int64_t, int64_t, int64_t, int64_t, int64_t)"),
  signal: bind("int64_t signal(int, int64_t)"),
  capset: bind("int capset(void *, void *)"),
  execv: bind("int execv(const char *, const char **)"),
};

/** syscall(2), for what libc has no function for in all its versions. */
const systemCall = (number: number, ...words: readonly number[]): number =>
  c.syscall(number, ...[0, 0, 0, 0].map((none, at) => words[at] ?? none));

/** Result or negative errno. `koffi.errno()` must be read before anything else runs. */
function result(value: number): number {
  return value < 0 ? -koffi.errno() : value;
}

/** The value of a call that is not expected to fail; throws SystemError when it did. */
export function check(syscall: string, value: number, subject?: string): number {
  if (value < 0) throw new SystemError(syscall, -value, subject);
  return value;
}

/** The numeric address of a buffer, for structures that hold pointers; the caller keeps the buffer alive. */
export function addressOf(buffer: Uint8Array): bigint {
  return koffi.address(buffer);
}

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
export const SO_SNDBUF = 7;
export const SO_KEEPALIVE = 9;
export const SO_PASSCRED = 16;
export const SO_PEERCRED = 17;
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
export const LOCK_EX = 2;
export const LOCK_NB = 4;
const F_DUPFD_CLOEXEC = 1030;

/** close(2). EINTR still closes on Linux, so the result is of interest for EBADF only. */
export const close = (fd: number): number => result(c.close(fd));

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

export const pread = (fd: number, target: Uint8Array, lengthBytes: number, offsetBytes: number): number =>
  result(c.pread(fd, target, lengthBytes, offsetBytes));

const sendfileOffset = new BigInt64Array(1);
/** sendfile(2) from an explicit offset; the file's position stays. Returns bytes sent, 0 at the end of the file. */
export function sendfile(toFd: number, fromFd: number, offsetBytes: number, lengthBytes: number): number {
  sendfileOffset[0] = BigInt(offsetBytes);
  return result(c.sendfile(toFd, fromFd, sendfileOffset, lengthBytes));
}

const SPLICE_F_NONBLOCK = 2;
const spliceOffset = new BigInt64Array(1);
/** splice(2) from a file's page cache into a pipe, without waiting for room; 0 at the end of the file. */
export function spliceFromFile(
  fileFd: number,
  offsetBytes: number,
  pipeFd: number,
  lengthBytes: number,
): number {
  spliceOffset[0] = BigInt(offsetBytes);
  return result(c.splice(fileFd, spliceOffset, pipeFd, null, lengthBytes, SPLICE_F_NONBLOCK));
}

/** splice(2) from a pipe into a socket, without waiting; what was not sent stays in the pipe. */
export const spliceToSocket = (pipeFd: number, socketFd: number, lengthBytes: number): number =>
  result(c.splice(pipeFd, null, socketFd, null, lengthBytes, SPLICE_F_NONBLOCK));

export const write = (fd: number, source: Uint8Array, lengthBytes: number): number =>
  result(c.write(fd, source, lengthBytes));

export const read = (fd: number, target: Uint8Array, lengthBytes: number): number =>
  result(c.read(fd, target, lengthBytes));

const F_SETPIPE_SZ = 1031;
const F_GETPIPE_SZ = 1032;

/** A non-blocking close-on-exec pipe, reading end first. @throws SystemError */
export function pipe(): [number, number] {
  const pair = new Int32Array(2);
  check("pipe2", result(c.pipe2(pair, 0o2000000 | SOCK_NONBLOCK)));
  return [pair[0] as number, pair[1] as number];
}

/**
 * Grows a pipe to this capacity, or else to a half, a quarter and so on. Returns its capacity. Only CAP_SYS_RESOURCE
 * may exceed the system's limit.
 */
export function growPipe(fd: number, sizeBytes: number): number {
  const had = check("fcntl F_GETPIPE_SZ", result(c.fcntl(fd, F_GETPIPE_SZ, 0)));
  for (let asked = sizeBytes; asked > had; asked = Math.floor(asked / 2)) {
    const size = result(c.fcntl(fd, F_SETPIPE_SZ, asked));
    if (size > 0) return size;
  }
  return had;
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

const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 1 | 0x8000;
const MAP_FAILED = 2n ** 64n - 1n;

/** Allocates all pages of a file, so that writes through a mapping cannot fail later. @throws SystemError */
export function allocateFile(fd: number, sizeBytes: number): void {
  // posix_fallocate returns its errno.
  check("posix_fallocate", -c.posixFallocate(fd, 0, sizeBytes));
}

/**
 * Maps the first bytes of a file as shared memory, locked into memory if the process may do that. After `unmapShared`
 * any access to it is fatal. @throws SystemError
 */
export function mapShared(fd: number, lengthBytes: number): ArrayBuffer {
  const address = c.mmap(null, lengthBytes, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, 0);
  if (address === MAP_FAILED) throw new SystemError("mmap", koffi.errno());
  c.mlock(address, lengthBytes);
  return koffi.view(address, lengthBytes);
}

/** Ends a mapping made by `mapShared`. */
export function unmapShared(memory: ArrayBuffer): void {
  c.munmap(koffi.address(new Uint8Array(memory)), memory.byteLength);
}

const AT_EMPTY_PATH = 0x1000;
/** Queries the server of a FUSE or network file system instead of the cached attributes. */
const AT_STATX_FORCE_SYNC = 0x2000;
/** statx(2) of an open descriptor into a 256-byte buffer whose layout is the same on every architecture. */
export const statxInto = (fd: number, mask: number, target: Uint8Array): number =>
  result(c.statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, mask, target));

const AT_FDCWD = -100;
/** statx(2) of a path, links followed, into the same. */
export const statxPathInto = (path: string, mask: number, target: Uint8Array): number =>
  result(c.statx(AT_FDCWD, path, 0, mask, target));

const F_GETFL = 3;
export const O_ACCMODE = 3;
export const O_WRONLY = 1;
/** include/uapi/asm-generic/fcntl.h; the same on every architecture that Node runs on. */
export const O_PATH = 0o10000000;
/** How a descriptor was opened (fcntl(2), F_GETFL). */
export const openFlags = (fd: number): number => result(c.fcntl(fd, F_GETFL, 0));

/** A duplicate that is close-on-exec. @throws SystemError */
export const duplicate = (fd: number): number =>
  check("fcntl F_DUPFD_CLOEXEC", result(c.fcntl(fd, F_DUPFD_CLOEXEC, 3)));
export const flock = (fd: number, operation: number): number => result(c.flock(fd, operation));

/** ioctl(2) with an integer argument. */
export const ioctl = (fd: number, request: number, argument: number): number =>
  result(c.ioctl(fd, request, argument));
/** ioctl(2) that fills a buffer. */
export const ioctlInto = (fd: number, request: number, target: Uint8Array): number =>
  result(c.ioctlOut(fd, request, target));

export const epollCreate = (): number => check("epoll_create1", result(c.epollCreate(0o2000000)));
export const epollCtl = (epollFd: number, operation: number, fd: number, event: Uint8Array | null): number =>
  result(c.epollCtl(epollFd, operation, fd, event));
export const epollWait = (epollFd: number, events: Uint8Array, count: number, timeoutMs: number): number =>
  result(c.epollWait(epollFd, events, count, timeoutMs));

const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;
/** A descriptor that becomes readable when a process has exited (pidfd_open(2), Linux 5.3). Close-on-exec. */
export const pidfdOpen = (pid: number): number => result(systemCall(SYS_PIDFD_OPEN, pid));
/** Sends a signal to exactly the process behind such a descriptor (pidfd_send_signal(2), Linux 5.1). */
export const pidfdSendSignal = (pidFd: number, signal: number): number =>
  result(systemCall(SYS_PIDFD_SEND_SIGNAL, pidFd, signal));

/** include/uapi/asm-generic/unistd.h has one number, x86 another (arch/x86/entry/syscalls/syscall_64.tbl). */
const SYS_KEYCTL: Readonly<Record<string, number>> = { x64: 250, arm64: 219, riscv64: 219, loong64: 219 };
const KEYCTL_JOIN_SESSION_KEYRING = 1;
/** Gives the calling thread and its children a new session keyring, empty and without a name (keyctl(2)). */
export const joinSessionKeyring = (): number => {
  const number = SYS_KEYCTL[process.arch];
  return number === undefined ? -ERRNO.ENOSYS : result(systemCall(number, KEYCTL_JOIN_SESSION_KEYRING, 0));
};

/** Neither this process nor its children can gain privileges by execve(2) any more (prctl(2), PR_SET_NO_NEW_PRIVS). */
export const setNoNewPrivileges = (): number => result(c.prctl(38, 1, 0, 0, 0));

/** Processes of the same user may not trace this one, and it writes no core (prctl(2), PR_SET_DUMPABLE). */
export const setUndumpable = (): number => result(c.prctl(4, 0, 0, 0, 0));

const LINUX_CAPABILITY_VERSION_3 = 0x2008_0522;
/** Clears all capabilities of the calling thread, inheritable and ambient ones included (capset(2)). */
export const clearCapabilities = (): number =>
  result(c.capset(Uint32Array.of(LINUX_CAPABILITY_VERSION_3, 0), new Uint32Array(6)));

/** Runs another program in this process (execv(3)); returns only on failure. The first word is its absolute path. */
export const execute = (words: readonly string[]): number => result(c.execv(words[0], [...words, null]));

const F_GETFD = 1;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
/** Clears close-on-exec. */
export const keepAcrossExec = (fd: number): number => result(c.fcntl(fd, F_SETFD, 0));
export const closeOnExec = (fd: number): number => result(c.fcntl(fd, F_SETFD, FD_CLOEXEC));
/** False also if there is no such descriptor. */
export const isKeptAcrossExec = (fd: number): boolean => c.fcntl(fd, F_GETFD, 0) === 0;

const F_SETOWN = 8;
const F_SETLEASE = 1024;
const F_GETLEASE = 1025;
const F_RDLCK = 0;
/**
 * Sets the process that gets signals about this open file description (F_SETOWN). The kernel stores the process, not
 * the pid, and checks whether the caller may signal it.
 */
export const setSignalOwner = (fd: number, pid: number): number => result(c.fcntl(fd, F_SETOWN, pid));
/** Takes a read lease on an open file description (fcntl(2), F_SETLEASE): for the file's owner, or with CAP_LEASE. */
export const setReadLease = (fd: number): number => result(c.fcntl(fd, F_SETLEASE, F_RDLCK));
/** Whether a read lease is held and no break of it is pending (F_GETLEASE). */
export const hasReadLease = (fd: number): boolean => c.fcntl(fd, F_GETLEASE, 0) === F_RDLCK;

const statfsWords = new BigUint64Array(32);
const statfsBytes = new Uint8Array(statfsWords.buffer);
/** `f_type` of the file system of a file (fstatfs(2); linux/magic.h). @throws SystemError */
export function fileSystemType(fd: number): number {
  check("fstatfs", result(c.fstatfs(fd, statfsBytes)));
  return Number(BigInt.asUintN(32, statfsWords[0] as bigint));
}

const SIG_IGN = 1;
/** Ignores a signal (signal(2), SIG_IGN). A handler is removed. */
export const ignoreSignal = (signal: number): number => result(c.signal(signal, SIG_IGN));

/** The effective user id of this process. */
export const effectiveUid = (): number => c.getuid();

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
