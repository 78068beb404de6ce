/**
 * One message to a unix datagram socket, which Node has no class for: how a service manager is told things.
 *
 * The socket is opened anew for each message, as sd_notify(3) does it: whoever listens may have been replaced since the
 * last one. Never blocks.
 */
import { ERRNO } from "../errno.ts";
import {
  AF_UNIX,
  check,
  close,
  connectTo,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SOCK_DGRAM,
  send,
  socket,
} from "../libc.ts";

/** `sun_path` (unix(7)). */
const UNIX_PATH_BYTES = 108;

/**
 * Sends a text to the socket at a path, or with a name that begins with «@» to an abstract one.
 * @returns false when its queue is full: try again in a moment
 * @throws SystemError where nobody listens, RangeError when the address does not fit
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

/** A `struct sockaddr_un`. An abstract name begins with a NUL and has no NUL at its end: its length is the address's. */
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
