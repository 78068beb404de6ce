/**
 * libc, bound by koffi: what the files beside this one have in common. netlink/ has its own binding.
 *
 * The functions of this folder return the result of their call, or the negative errno. They do not throw, because
 * EAGAIN is normal on the read path, unless a comment says so. `check` turns a negative result into a SystemError.
 * Buffers are not used after the call has returned. A call blocks the calling thread only if its descriptor is
 * blocking.
 */
import koffi from "koffi";
import { SystemError } from "../errno.ts";

export const libc: ReturnType<typeof koffi.load> = koffi.load(null);

/** A function of libc with a result that fits a number. */
export const bind = (signature: string): ((...args: unknown[]) => number) => libc.func(signature);

const syscall = bind("int64_t syscall(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t)");

/** syscall(2), for what libc has no function for in all its versions. */
export const systemCall = (number: number, ...words: readonly (number | bigint)[]): number =>
  syscall(number, ...[0, 0, 0, 0, 0].map((none, at) => words[at] ?? none));

/** Result or negative errno. `koffi.errno()` must be read before anything else runs. */
export function result(value: number): number {
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
