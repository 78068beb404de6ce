/**
 * Creates listening sockets, and connects to them, as plain descriptors: unix paths and TCP addresses.
 *
 * For `serve`, the control socket and workers' sockets, which need descriptors rather than streams.
 */
import { lookup } from "node:dns/promises";
import { isIPv6 } from "node:net";
import { ERRNO, SystemError } from "../errno.ts";
import { check } from "../libc/bind.ts";
import { close } from "../libc/files.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  bindTo,
  connectTo,
  listen,
  SO_PASSCRED,
  SO_REUSEADDR,
  SOCK_NONBLOCK,
  SOCK_SEQPACKET,
  SOCK_STREAM,
  SOL_SOCKET,
  setSocketOption,
  socket,
} from "../libc/sockets.ts";

const BACKLOG = 128;
/** `sun_path`, with its terminating NUL (unix(7)). */
const UNIX_PATH_BYTES = 108;

/** A `struct sockaddr_un`. @throws RangeError when the path does not fit */
function unixAddress(path: string): Uint8Array {
  const name = new TextEncoder().encode(path);
  if (name.length >= UNIX_PATH_BYTES) {
    throw new RangeError(`cannot use socket path ${path}: it is longer than ${UNIX_PATH_BYTES - 1} bytes`);
  }
  const address = new Uint8Array(2 + name.length + 1);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  return address;
}

/** A `struct sockaddr_in` or `sockaddr_in6`. */
function inetAddress(ip: string, port: number): Uint8Array {
  const six = isIPv6(ip);
  const address = new Uint8Array(six ? 28 : 16);
  const view = new DataView(address.buffer);
  view.setUint16(0, six ? AF_INET6 : AF_INET, true);
  view.setUint16(2, port, false);
  if (six) address.set(ipv6Bytes(ip), 8);
  else address.set(ip.split(".").map(Number), 4);
  return address;
}

/** Of any spelling that `isIPv6` accepts, without a zone: the URL parser makes hexadecimal groups of all of it. */
function ipv6Bytes(ip: string): Uint8Array {
  const canonical = new URL(`http://[${ip}]/`).hostname.slice(1, -1);
  const [head = "", tail] = canonical.split("::");
  const groups = (part: string): string[] => (part === "" ? [] : part.split(":"));
  const left = groups(head);
  const right = tail === undefined ? [] : groups(tail);
  const all = [...left, ...Array<string>(8 - left.length - right.length).fill("0"), ...right];
  return Uint8Array.from(
    all.flatMap((group) => [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 0xff]),
  );
}

function listening(family: number, type: number, address: Uint8Array, subject: string): number {
  const fd = check("open a socket", socket(family, type | SOCK_NONBLOCK), subject);
  try {
    if (family !== AF_UNIX) setSocketOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    check("listen on", bindTo(fd, address), subject);
    check("listen on", listen(fd, BACKLOG), subject);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** Listens on a unix socket path that does not exist yet. @throws SystemError, RangeError */
export function listenUnix(path: string, type: number = SOCK_STREAM): number {
  return listening(AF_UNIX, type, unixAddress(path), path);
}

/**
 * A connected SOCK_SEQPACKET socket on which each message comes with its sender's pid (see Channel).
 * @throws SystemError ECONNREFUSED without a listener, RangeError
 */
export function connectMessages(path: string): number {
  const fd = check("open a socket", socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK), path);
  // Before the peer can send anything.
  setSocketOption(fd, SOL_SOCKET, SO_PASSCRED, 1);
  const result = connectTo(fd, unixAddress(path));
  if (result === 0) return fd;
  close(fd);
  throw new SystemError("connect to", -result, path);
}

/** Listens on a TCP address. @throws SystemError; or the resolver's error */
export async function listenTcp(host: string, port: number): Promise<number> {
  const { address } = await lookup(host);
  return listening(
    isIPv6(address) ? AF_INET6 : AF_INET,
    SOCK_STREAM,
    inetAddress(address, port),
    `${host}:${port}`,
  );
}

/** Whether a process listens on a unix socket path. */
export function isListening(path: string): boolean {
  const fd = check("open a socket", socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK));
  const result = connectTo(fd, unixAddress(path));
  close(fd);
  if (result === 0 || result === -ERRNO.EAGAIN) return true;
  if (result === -ERRNO.ECONNREFUSED || result === -ERRNO.ENOENT) return false;
  throw new SystemError("connect to", -result, path);
}
