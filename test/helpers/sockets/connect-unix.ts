/** A connected unix socket as a plain descriptor, for peers that do what a stream of Node's cannot. */
import { check } from "../../../src/sys/libc/bind.ts";
import { AF_UNIX, connectTo, socket } from "../../../src/sys/libc/sockets.ts";

/** The caller closes it. @throws SystemError */
export function connectUnix(path: string, type: number): number {
  const name = Buffer.from(`${path}\0`);
  const address = Buffer.alloc(2 + name.length);
  address.writeUInt16LE(AF_UNIX);
  name.copy(address, 2);
  const fd = check("socket", socket(AF_UNIX, type));
  check("connect", connectTo(fd, address), path);
  return fd;
}
