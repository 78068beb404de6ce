/** Memory: the size of its pages, and shared memory of a file (mmap(2)), for journals. */
import koffi from "koffi";
import { SystemError } from "../errno.ts";
import { bind, check, libc } from "./bind.ts";

const c = {
  sysconf: bind("int64_t sysconf(int)"),
  mlock: bind("int mlock(void *, size_t)"),
  mmap: libc.func("void *mmap(void *, size_t, int, int, int, int64_t)") as (...args: unknown[]) => bigint,
  munmap: bind("int munmap(void *, size_t)"),
  posixFallocate: bind("int posix_fallocate(int, int64_t, int64_t)"),
};

const SC_PAGESIZE = 30;

/** The size of the kernel's memory pages: 4 KiB, or 16 or 64 on some arm64 and ppc64 kernels. */
export const pageSizeBytes = (): number => check("sysconf", c.sysconf(SC_PAGESIZE) as number);

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
