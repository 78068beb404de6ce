/**
 * The wire format of structured replies: constants and encoders of the chunks that this server sends.
 *
 * Only clients of `serve` that have asked for them get structured replies; a kernel's links have simple ones.
 *
 * Source: the protocol's doc/proto.md, "Structured replies" and "Metadata querying".
 */
import { putU32 } from "./wire.ts";

/** First word of each chunk. */
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;

/** Marks the last chunk of a reply. */
export const NBD_REPLY_FLAG_DONE = 1;

/** Chunk types. Errors have bit 15 set. */
export const NBD_REPLY_TYPE_NONE = 0;
export const NBD_REPLY_TYPE_OFFSET_DATA = 1;
export const NBD_REPLY_TYPE_OFFSET_HOLE = 2;
export const NBD_REPLY_TYPE_BLOCK_STATUS = 5;
export const NBD_REPLY_TYPE_ERROR = 0x8001;

/** The metadata context of block status, and its flags. */
export const BASE_ALLOCATION = "base:allocation";
/** Its number on every connection: the only one there is. */
export const BASE_ALLOCATION_ID = 1;
export const NBD_STATE_HOLE = 1;
export const NBD_STATE_ZERO = 2;

/** Magic (4), flags (2), type (2), cookie (8), length of the payload (4). */
const CHUNK_HEADER_BYTES = 20;
/** Bytes before the data of an OFFSET_DATA chunk: header and offset. */
export const DATA_CHUNK_HEADER_BYTES: number = CHUNK_HEADER_BYTES + 8;
/** Header, offset (8), length (4). */
export const HOLE_CHUNK_BYTES: number = CHUNK_HEADER_BYTES + 12;
/** Header, error (4), length of a text (2), which is empty: the log has the text. */
export const ERROR_CHUNK_BYTES: number = CHUNK_HEADER_BYTES + 6;
/** Length (4), flags (4). */
const EXTENT_BYTES = 8;
const WORD = 0x1_0000_0000;

/** What of a request a reply repeats. */
interface Cookie {
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

/** One descriptor of block status. */
export interface StatusExtent {
  readonly lengthBytes: number;
  /** `NBD_STATE_…` bits. */
  readonly flags: number;
}

function putHeader(
  bytes: Uint8Array,
  at: number,
  type: number,
  { cookieHigh, cookieLow }: Cookie,
  payloadBytes: number,
  isLast: boolean,
): void {
  putU32(bytes, at, NBD_STRUCTURED_REPLY_MAGIC);
  putU32(bytes, at + 4, ((isLast ? NBD_REPLY_FLAG_DONE : 0) << 16) | type);
  putU32(bytes, at + 8, cookieHigh);
  putU32(bytes, at + 12, cookieLow);
  putU32(bytes, at + 16, payloadBytes);
}

function putOffset(bytes: Uint8Array, at: number, offsetBytes: number): void {
  putU32(bytes, at, Math.floor(offsetBytes / WORD));
  putU32(bytes, at + 4, offsetBytes % WORD);
}

/** Encodes the {@link DATA_CHUNK_HEADER_BYTES} bytes before `lengthBytes` of data. */
export function encodeDataChunkInto(
  bytes: Uint8Array,
  at: number,
  cookie: Cookie,
  offsetBytes: number,
  lengthBytes: number,
  isLast: boolean,
): void {
  putHeader(bytes, at, NBD_REPLY_TYPE_OFFSET_DATA, cookie, 8 + lengthBytes, isLast);
  putOffset(bytes, at + CHUNK_HEADER_BYTES, offsetBytes);
}

/** Encodes the {@link HOLE_CHUNK_BYTES} bytes that stand for `lengthBytes` zeros. */
export function encodeHoleChunkInto(
  bytes: Uint8Array,
  at: number,
  cookie: Cookie,
  offsetBytes: number,
  lengthBytes: number,
  isLast: boolean,
): void {
  putHeader(bytes, at, NBD_REPLY_TYPE_OFFSET_HOLE, cookie, 12, isLast);
  putOffset(bytes, at + CHUNK_HEADER_BYTES, offsetBytes);
  putU32(bytes, at + CHUNK_HEADER_BYTES + 8, lengthBytes);
}

/** Encodes a whole reply of {@link ERROR_CHUNK_BYTES} bytes: an error. */
export function encodeErrorChunkInto(
  bytes: Uint8Array,
  at: number,
  errno: number,
  cookieHigh: number,
  cookieLow: number,
): void {
  putHeader(bytes, at, NBD_REPLY_TYPE_ERROR, { cookieHigh, cookieLow }, 6, true);
  putU32(bytes, at + CHUNK_HEADER_BYTES, errno);
  bytes[at + CHUNK_HEADER_BYTES + 4] = 0;
  bytes[at + CHUNK_HEADER_BYTES + 5] = 0;
}

/** A whole reply: the block status of consecutive extents, in one metadata context. */
export function encodeBlockStatus(
  cookie: Cookie,
  contextId: number,
  extents: readonly StatusExtent[],
): Uint8Array {
  const payloadBytes = 4 + EXTENT_BYTES * extents.length;
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES + payloadBytes);
  putHeader(bytes, 0, NBD_REPLY_TYPE_BLOCK_STATUS, cookie, payloadBytes, true);
  putU32(bytes, CHUNK_HEADER_BYTES, contextId);
  extents.forEach(({ lengthBytes, flags }, index) => {
    const at = CHUNK_HEADER_BYTES + 4 + EXTENT_BYTES * index;
    putU32(bytes, at, lengthBytes);
    putU32(bytes, at + 4, flags);
  });
  return bytes;
}
