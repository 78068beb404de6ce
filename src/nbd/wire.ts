/**
 * The wire format of the NBD transmission phase: the protocol's constants, the 28-byte request and the 16-byte simple
 * reply.
 *
 * The read-serving loop decodes and encodes through these functions without allocations: one mutable record is reused
 * for all requests, the cookie is two opaque 32-bit words, and there is no BigInt. Values are not checked here:
 * request-check.ts does that.
 *
 * Sources: include/uapi/linux/nbd.h (6.1 to 7.2) and "Transmission phase" in the protocol's doc/proto.md.
 */

/** Bytes of a request without its payload (`struct nbd_request`). */
export const REQUEST_BYTES = 28;

/** Bytes of a simple reply without its data (`struct nbd_reply`). */
export const SIMPLE_REPLY_BYTES = 16;

/** First word of each request. */
export const NBD_REQUEST_MAGIC = 0x25609513;

/** First word of each simple reply (`NBD_REPLY_MAGIC` in the kernel). */
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;

/** Request types. */
export const NBD_CMD_READ = 0;
export const NBD_CMD_WRITE = 1;
export const NBD_CMD_DISC = 2;
export const NBD_CMD_FLUSH = 3;
export const NBD_CMD_TRIM = 4;
export const NBD_CMD_CACHE = 5;
export const NBD_CMD_WRITE_ZEROES = 6;
export const NBD_CMD_BLOCK_STATUS = 7;
export const NBD_CMD_RESIZE = 8;

/** Command flags: the upper half of the kernel's 32-bit type word, a field of its own in the protocol. */
export const NBD_CMD_FLAG_FUA = 0x1;
export const NBD_CMD_FLAG_NO_HOLE = 0x2;
export const NBD_CMD_FLAG_DF = 0x4;
export const NBD_CMD_FLAG_REQ_ONE = 0x8;
export const NBD_CMD_FLAG_FAST_ZERO = 0x10;

/** Transmission flags: 16 bits that say what an export offers; the kernel uses the same bits as SERVER_FLAGS. */
export const NBD_FLAG_HAS_FLAGS = 0x1;
export const NBD_FLAG_READ_ONLY = 0x2;
export const NBD_FLAG_SEND_FLUSH = 0x4;
export const NBD_FLAG_SEND_FUA = 0x8;
export const NBD_FLAG_ROTATIONAL = 0x10;
export const NBD_FLAG_SEND_TRIM = 0x20;
export const NBD_FLAG_SEND_WRITE_ZEROES = 0x40;
export const NBD_FLAG_SEND_DF = 0x80;
export const NBD_FLAG_CAN_MULTI_CONN = 0x100;
export const NBD_FLAG_SEND_RESIZE = 0x200;
export const NBD_FLAG_SEND_CACHE = 0x400;
export const NBD_FLAG_SEND_FAST_ZERO = 0x800;

/** The flags of all exports of this project: read-only, and any number of links at once. */
export const READ_ONLY_EXPORT_FLAGS: number =
  NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_CAN_MULTI_CONN;

/** The error numbers that a reply may carry. They do not depend on the server's platform. */
export const NBD_EPERM = 1;
export const NBD_EIO = 5;
export const NBD_ENOMEM = 12;
export const NBD_EINVAL = 22;
export const NBD_ENOSPC = 28;
export const NBD_EOVERFLOW = 75;
export const NBD_ENOTSUP = 95;
export const NBD_ESHUTDOWN = 108;

/** Value of {@link NbdRequest.offsetBytes} for an offset of 2^53 or more, which is beyond the end of every export. */
export const OFFSET_TOO_LARGE = -1;

/** The first word of a 64-bit offset at which it no longer is a safe integer. */
const UNSAFE_HIGH_WORD = 0x20_0000;

const WORD = 0x1_0000_0000;

const COMMAND_NAMES: readonly string[] = [
  "READ",
  "WRITE",
  "DISC",
  "FLUSH",
  "TRIM",
  "CACHE",
  "WRITE_ZEROES",
  "BLOCK_STATUS",
  "RESIZE",
];

const ERROR_NAMES: ReadonlyMap<number, string> = new Map([
  [NBD_EPERM, "EPERM"],
  [NBD_EIO, "EIO"],
  [NBD_ENOMEM, "ENOMEM"],
  [NBD_EINVAL, "EINVAL"],
  [NBD_ENOSPC, "ENOSPC"],
  [NBD_EOVERFLOW, "EOVERFLOW"],
  [NBD_ENOTSUP, "ENOTSUP"],
  [NBD_ESHUTDOWN, "ESHUTDOWN"],
]);

/** A request's name for logs: "READ", or "command 9" for an unknown type. */
export function commandName(type: number): string {
  return COMMAND_NAMES[type] ?? `command ${type}`;
}

/** An NBD error number's name for logs: "EIO", or "error 7" for one that the protocol does not define. */
export function nbdErrorName(errno: number): string {
  return ERROR_NAMES.get(errno) ?? `error ${errno}`;
}

/** One decoded request; mutable because the loop reuses a single record (see {@link newRequest}). */
export interface NbdRequest {
  /** Command flags, 16 bits. */
  flags: number;
  /** Request type, 16 bits: `NBD_CMD_…`. */
  type: number;
  /** The cookie's first four bytes as sent; opaque, copied into the reply. */
  cookieHigh: number;
  /** The cookie's last four bytes as sent. */
  cookieLow: number;
  /** Where the range starts, a safe integer, or {@link OFFSET_TOO_LARGE}. */
  offsetBytes: number;
  /** How long the range is, 0 to 2^32-1: unchecked, so size no memory by it. */
  lengthBytes: number;
}

/** One decoded simple reply; reused like {@link NbdRequest}. */
export interface NbdSimpleReply {
  /** 0, or one of the protocol's error numbers; a foreign server may send others. */
  errno: number;
  cookieHigh: number;
  cookieLow: number;
}

/** A record for {@link decodeRequestInto} to fill again and again. */
export function newRequest(): NbdRequest {
  return { flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offsetBytes: 0, lengthBytes: 0 };
}

/** A record for {@link decodeReplyInto} to fill again and again. */
export function newSimpleReply(): NbdSimpleReply {
  return { errno: 0, cookieHigh: 0, cookieLow: 0 };
}

// The casts below cost nothing. An index past the end would read as 0; every caller has checked the length.
function getU32(bytes: Uint8Array, at: number): number {
  return (
    (((bytes[at] as number) << 24) |
      ((bytes[at + 1] as number) << 16) |
      ((bytes[at + 2] as number) << 8) |
      (bytes[at + 3] as number)) >>>
    0
  );
}

function getU16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

/** A big-endian 32-bit number. */
export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/**
 * Decodes the {@link REQUEST_BYTES} bytes at `at` (big-endian) into `request`; the caller has checked the length.
 *
 * | offset | bytes | field |
 * |---|---|---|
 * | 0 | 4 | magic 0x25609513 |
 * | 4 | 2 | flags |
 * | 6 | 2 | type |
 * | 8 | 8 | cookie |
 * | 16 | 8 | offset |
 * | 24 | 4 | length |
 *
 * @returns false, with `request` untouched, when the magic is wrong: the stream is lost.
 */
export function decodeRequestInto(request: NbdRequest, bytes: Uint8Array, at: number): boolean {
  if (getU32(bytes, at) !== NBD_REQUEST_MAGIC) return false;
  request.flags = getU16(bytes, at + 4);
  request.type = getU16(bytes, at + 6);
  request.cookieHigh = getU32(bytes, at + 8);
  request.cookieLow = getU32(bytes, at + 12);
  const offsetHigh = getU32(bytes, at + 16);
  request.offsetBytes =
    offsetHigh < UNSAFE_HIGH_WORD ? offsetHigh * WORD + getU32(bytes, at + 20) : OFFSET_TOO_LARGE;
  request.lengthBytes = getU32(bytes, at + 24);
  return true;
}

/**
 * Encodes a request (without payload) into the {@link REQUEST_BYTES} bytes at `at`: the client's side.
 * `offsetBytes` must be a safe integer; {@link OFFSET_TOO_LARGE} is sent as an offset of 2^53.
 */
export function encodeRequestInto(bytes: Uint8Array, at: number, request: Readonly<NbdRequest>): void {
  const tooLarge = request.offsetBytes === OFFSET_TOO_LARGE;
  const offsetHigh = tooLarge ? UNSAFE_HIGH_WORD : Math.floor(request.offsetBytes / WORD);
  putU32(bytes, at, NBD_REQUEST_MAGIC);
  putU32(bytes, at + 4, ((request.flags & 0xffff) << 16) | (request.type & 0xffff));
  putU32(bytes, at + 8, request.cookieHigh);
  putU32(bytes, at + 12, request.cookieLow);
  putU32(bytes, at + 16, offsetHigh);
  putU32(bytes, at + 20, tooLarge ? 0 : request.offsetBytes % WORD);
  putU32(bytes, at + 24, request.lengthBytes);
}

/**
 * Encodes a simple reply's header into the {@link SIMPLE_REPLY_BYTES} bytes at `at`: magic, error, cookie, big-endian.
 * Data follows it only for a READ with `errno` 0.
 */
export function encodeReplyInto(
  bytes: Uint8Array,
  at: number,
  errno: number,
  cookieHigh: number,
  cookieLow: number,
): void {
  putU32(bytes, at, NBD_SIMPLE_REPLY_MAGIC);
  putU32(bytes, at + 4, errno);
  putU32(bytes, at + 8, cookieHigh);
  putU32(bytes, at + 12, cookieLow);
}

/**
 * Decodes the {@link SIMPLE_REPLY_BYTES} bytes at `at` into `reply`: the client's side.
 *
 * @returns false, with `reply` untouched, when the magic is wrong.
 */
export function decodeReplyInto(reply: NbdSimpleReply, bytes: Uint8Array, at: number): boolean {
  if (getU32(bytes, at) !== NBD_SIMPLE_REPLY_MAGIC) return false;
  reply.errno = getU32(bytes, at + 4);
  reply.cookieHigh = getU32(bytes, at + 8);
  reply.cookieLow = getU32(bytes, at + 12);
  return true;
}
