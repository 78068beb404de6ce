/** Pipes, and splice(2) through them: how pages of a file reach a socket without a copy. */
import { bind, check, libc, result } from "./bind.ts";

const c = {
  splice: bind("int64_t splice(int, void *, int, void *, size_t, uint32_t)"),
  pipe2: bind("int pipe2(void *, int)"),
  fcntl: bind("int fcntl(int, int, int)"),
};
const fcntlOffLoop = libc.func("int fcntl(int, int, int)");

const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
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

const F_SETPIPE_SZ = 1031;
const F_GETPIPE_SZ = 1032;

/** A non-blocking close-on-exec pipe, reading end first. @throws SystemError */
export function pipe(): [number, number] {
  const pair = new Int32Array(2);
  check("pipe2", result(c.pipe2(pair, O_CLOEXEC | O_NONBLOCK)));
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

/** fcntl(2) on a pipe in another thread: it waits for a process that is filling the pipe from a slow file. */
const fcntlPipe = (fd: number, command: number, argument: number): Promise<number> =>
  new Promise((resolve) => {
    fcntlOffLoop.async(fd, command, argument, (_: unknown, value: number) => resolve(result(value)));
  });

/** Grows a pipe to this capacity if it is smaller, off the event loop. Resolves with what it has then, or -errno. */
export async function growPipeOffLoop(fd: number, sizeBytes: number): Promise<number> {
  const had = await fcntlPipe(fd, F_GETPIPE_SZ, 0);
  if (had < 0 || had >= sizeBytes) return had;
  const size = await fcntlPipe(fd, F_SETPIPE_SZ, sizeBytes);
  return size < 0 ? had : size;
}

/** Shrinks a pipe likewise. It stays as it is while it holds more than that. */
export async function shrinkPipeOffLoop(fd: number, sizeBytes: number): Promise<number> {
  const size = await fcntlPipe(fd, F_SETPIPE_SZ, sizeBytes);
  return size < 0 ? fcntlPipe(fd, F_GETPIPE_SZ, 0) : size;
}
