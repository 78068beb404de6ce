/**
 * The libc calls of netlink/, through koffi: open, bind, option, send, receive, close of a netlink socket.
 *
 * Called by kernel-transport.ts alone. Each function returns a value or throws SyscallError with that call's errno.
 * Calls that may sleep inside the kernel have an OffLoop variant that runs on libuv's pool; nothing here retries.
 */
import koffi, { type KoffiFunc } from "koffi";
import * as C from "../constants.ts";
import { SyscallError } from "../errors.ts";
import { HOST_LITTLE_ENDIAN, viewOf } from "../wire/attributes.ts";

type Receive = (
  fd: number,
  into: Uint8Array,
  size: number,
  flags: number,
  from: Uint8Array,
  fromSize: Uint8Array,
) => number;
type SetOption = (fd: number, level: number, option: number, value: Uint8Array, size: number) => number;

const library = koffi.load(null);
const cSocket = library.func("int socket(int, int, int)") as (
  domain: number,
  type: number,
  protocol: number,
) => number;
const cBind = library.func("int bind(int, const void *, unsigned int)") as (
  fd: number,
  address: Uint8Array,
  size: number,
) => number;
const cName = library.func("int getsockname(int, void *, void *)") as (
  fd: number,
  address: Uint8Array,
  size: Uint8Array,
) => number;
const cSetOption = library.func(
  "int setsockopt(int, int, int, const void *, unsigned int)",
) as KoffiFunc<SetOption>;
const cGetOption = library.func("int getsockopt(int, int, int, void *, void *)") as (
  fd: number,
  level: number,
  option: number,
  value: Uint8Array,
  size: Uint8Array,
) => number;
const cSend = library.func("int64_t send(int, const void *, size_t, int)") as KoffiFunc<
  (fd: number, bytes: Uint8Array, size: number, flags: number) => number
>;
const cReceive = library.func(
  "int64_t recvfrom(int, void *, size_t, int, void *, void *)",
) as KoffiFunc<Receive>;
const cClose = library.func("int close(int)") as (fd: number) => number;

/** struct sockaddr_nl: family u16, padding u16, nl_pid u32, nl_groups u32. */
const ADDRESS_BYTES = 12;

function check(syscall: string, result: number): number {
  if (result < 0) throw new SyscallError(syscall, koffi.errno());
  return result;
}

function int32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setInt32(0, value, HOST_LITTLE_ENDIAN);
  return bytes;
}

function offLoop(
  syscall: string,
  start: (done: (error: unknown, result: number) => void) => void,
): Promise<number> {
  return new Promise((resolve, reject) => {
    start((error, result) => {
      // koffi keeps errno per call: inside this callback it is the one of the call that just ended.
      if (error) reject(error instanceof Error ? error : new Error(String(error)));
      else if (result < 0) reject(new SyscallError(syscall, koffi.errno()));
      else resolve(result);
    });
  });
}

/** A non-blocking, close-on-exec generic netlink socket. The caller closes it. @throws SyscallError */
export function openSocket(): number {
  const type = C.SOCK_RAW | C.SOCK_CLOEXEC | C.SOCK_NONBLOCK;
  return check("open", cSocket(C.AF_NETLINK, type, C.NETLINK_GENERIC));
}

/** Binds to a port that the kernel chooses and returns it. @throws SyscallError */
export function bindSocket(fd: number): number {
  const address = new Uint8Array(ADDRESS_BYTES);
  viewOf(address).setUint16(0, C.AF_NETLINK, HOST_LITTLE_ENDIAN);
  check("bind", cBind(fd, address, ADDRESS_BYTES));
  check("bind", cName(fd, address, int32(ADDRESS_BYTES)));
  return viewOf(address).getUint32(4, HOST_LITTLE_ENDIAN);
}

/** Sets an int option. @throws SyscallError */
export function setOption(fd: number, level: number, option: number, value: number): void {
  check("configure", cSetOption(fd, level, option, int32(value), 4));
}

/** As {@link setOption} on libuv's pool: joining a group takes locks that a family being loaded may hold. */
export async function setOptionOffLoop(
  fd: number,
  level: number,
  option: number,
  value: number,
): Promise<void> {
  const bytes = int32(value);
  await offLoop("configure", (done) => cSetOption.async(fd, level, option, bytes, 4, done));
}

/** Reads an int option. @throws SyscallError */
export function getOption(fd: number, level: number, option: number): number {
  const value = int32(0);
  check("configure", cGetOption(fd, level, option, value, int32(4)));
  return viewOf(value).getInt32(0, HOST_LITTLE_ENDIAN);
}

/**
 * Sends one datagram to the kernel from a pool thread, because the family's handler runs inside this call, for any
 * time. `bytes` must not change until the promise settles; `fd` must stay open until then. @throws SyscallError
 */
export async function sendOffLoop(fd: number, bytes: Uint8Array): Promise<void> {
  await offLoop("send on", (done) => cSend.async(fd, bytes, bytes.length, 0, done));
}

/** The result of one receive. */
export interface Received {
  /** The datagram's full length, which may exceed the buffer. */
  readonly lengthBytes: number;
  /** 0 for the kernel. */
  readonly senderPortId: number;
}

/** Receives without waiting into `into`; flags are MSG_*, MSG_TRUNC is added. @throws SyscallError (EAGAIN too) */
export function receive(fd: number, into: Uint8Array, flags: number): Received {
  const from = new Uint8Array(ADDRESS_BYTES);
  const result = cReceive(fd, into, into.length, flags | C.MSG_TRUNC, from, int32(ADDRESS_BYTES));
  const lengthBytes = check("receive from", result);
  return { lengthBytes, senderPortId: viewOf(from).getUint32(4, HOST_LITTLE_ENDIAN) };
}

/** As {@link receive}, from a pool thread. */
export async function receiveOffLoop(fd: number, into: Uint8Array, flags: number): Promise<Received> {
  const from = new Uint8Array(ADDRESS_BYTES);
  const fromSize = int32(ADDRESS_BYTES);
  const lengthBytes = await offLoop("receive from", (done) =>
    cReceive.async(fd, into, into.length, flags | C.MSG_TRUNC, from, fromSize, done),
  );
  return { lengthBytes, senderPortId: viewOf(from).getUint32(4, HOST_LITTLE_ENDIAN) };
}

/** Closes a descriptor. On Linux it is gone even if this throws. @throws SyscallError */
export function closeSocket(fd: number): void {
  check("close", cClose(fd));
}
