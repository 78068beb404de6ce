/** System calls on open files and other descriptors: reading, status, flags, locks, leases. */
import { bind, check, libc, result } from "./bind.ts";

const c = {
  close: bind("int close(int)"),
  pread: bind("int64_t pread(int, void *, size_t, int64_t)"),
  lseek: bind("int64_t lseek(int, int64_t, int)"),
  write: bind("int64_t write(int, void *, size_t)"),
  read: bind("int64_t read(int, void *, size_t)"),
  statx: bind("int statx(int, const char *, int, uint32_t, void *)"),
  fcntl: bind("int fcntl(int, int, int)"),
  flock: bind("int flock(int, int)"),
  fstatfs: bind("int fstatfs(int, void *)"),
  ioctl: bind("int ioctl(int, uint64_t, uint64_t)"),
  ioctlOut: libc.func("ioctl", "int", ["int", "uint64_t", "void *"]) as (...args: unknown[]) => number,
};

export const LOCK_EX = 2;
export const LOCK_NB = 4;
const F_DUPFD_CLOEXEC = 1030;

/** close(2). EINTR still closes on Linux, so the result is of interest for EBADF only. */
export const close = (fd: number): number => result(c.close(fd));

export const pread = (fd: number, target: Uint8Array, lengthBytes: number, offsetBytes: number): number =>
  result(c.pread(fd, target, lengthBytes, offsetBytes));

/** `whence` of lseek(2): the next data, or the next hole, at or after an offset. ENXIO without further data. */
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** lseek(2): moves the position, which pread(2) does not use, and returns it. */
export const lseek = (fd: number, offsetBytes: number, whence: number): number =>
  result(c.lseek(fd, offsetBytes, whence));

export const write = (fd: number, source: Uint8Array, lengthBytes: number): number =>
  result(c.write(fd, source, lengthBytes));

export const read = (fd: number, target: Uint8Array, lengthBytes: number): number =>
  result(c.read(fd, target, lengthBytes));

const AT_EMPTY_PATH = 0x1000;

/** Queries the server of a FUSE or network file system instead of the cached attributes. */
const AT_STATX_FORCE_SYNC = 0x2000;

/** statx(2) of an open descriptor into a 256-byte buffer whose layout is the same on every architecture. */
export const statxInto = (fd: number, mask: number, target: Uint8Array): number =>
  result(c.statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, mask, target));

/** Answers from what the kernel has in memory. */
const AT_STATX_DONT_SYNC = 0x4000;

/** The same without waiting for a server; times and size may be old. */
export const statxCachedInto = (fd: number, mask: number, target: Uint8Array): number =>
  result(c.statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, mask, target));

const AT_FDCWD = -100;

/** statx(2) of a path, links followed, into the same. */
export const statxPathInto = (path: string, mask: number, target: Uint8Array): number =>
  result(c.statx(AT_FDCWD, path, 0, mask, target));

const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;
export const O_ACCMODE = 3;
export const O_WRONLY = 1;

/** include/uapi/asm-generic/fcntl.h; the same on every architecture that Node runs on. */
export const O_PATH = 0o10000000;

/** How a descriptor was opened (fcntl(2), F_GETFL). */
export const openFlags = (fd: number): number => result(c.fcntl(fd, F_GETFL, 0));

/** Makes reads and writes of everything that shares this open file return instead of waiting. */
export const setNonBlocking = (fd: number): number => {
  const flags = openFlags(fd);
  return flags < 0 ? flags : result(c.fcntl(fd, F_SETFL, flags | O_NONBLOCK));
};

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
