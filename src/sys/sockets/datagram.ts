/**
 * Sends messages to a unix datagram socket, for which Node has no class. Used to notify a service manager.
 *
 * Like sd_notify(3), it opens a socket for each message, because the listener may have been replaced. Never blocks.
 */
import { ERRNO } from "../errno.ts";
import { check } from "../libc/bind.ts";
import { close } from "../libc/files.ts";
import { AF_UNIX, connectTo, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_DGRAM, send, socket } from "../libc/sockets.ts";

/** `sun_path` (unix(7)). */
const UNIX_PATH_BYTES = 108;

/**
 * Sends a text to the socket at a path, or to an abstract one if the name begins with "@".
 * @returns false when its queue is full: try again in a moment
 * @throws SystemError without a listener, RangeError when the address is too long
 */
export function sendDatagram(address: string, text: string): boolean {
  const fd = check("open a socket", socket(AF_UNIX, SOCK_DGRAM));
  try {
    check("connect to", connectTo(fd, socketAddress(address)), address);
    const bytes = Buffer.from(text, "utf8");
    const sent = send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent === -ERRNO.EAGAIN || sent === -ERRNO.ENOBUFS) return false;
    check("send to", sent, address);
    return true;
  } finally {
    close(fd);
  }
}

/** A `struct sockaddr_un`. An abstract name begins with NUL and does not end with one. */
function socketAddress(name: string): Uint8Array {
  const isAbstract = name.startsWith("@");
  const bytes = Buffer.from(name, "utf8");
  if (isAbstract) bytes[0] = 0;
  if (bytes.length + (isAbstract ? 0 : 1) > UNIX_PATH_BYTES) {
    throw new RangeError(
      `cannot use socket ${name}: its name is longer than a unix socket's may be (${UNIX_PATH_BYTES} bytes)`,
    );
  }
  const address = new Uint8Array(2 + bytes.length + (isAbstract ? 0 : 1));
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(bytes, 2);
  return address;
}
