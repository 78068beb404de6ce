/**
 * The two formats of a reply to a read: simple, and one structured chunk. A link has one of them for its whole life.
 *
 * The cookie lies at the same place in both: COOKIE_AT.
 */
import {
  DATA_CHUNK_HEADER_BYTES,
  ERROR_CHUNK_BYTES,
  encodeDataChunkInto,
  encodeErrorChunkInto,
} from "./structured.ts";
import { encodeReplyInto, type NbdRequest, SIMPLE_REPLY_BYTES } from "./wire.ts";

/** Where the cookie begins in the header of every reply, of eight bytes. */
export const COOKIE_AT = 8;

export interface ReplyFormat {
  /** Bytes before the data of a reply. */
  readonly headerBytes: number;
  /** Encodes them: all the data that was asked for follows. */
  encodeHeaderInto(bytes: Uint8Array, at: number, request: Readonly<NbdRequest>): void;
  /** Bytes of a reply that is an error; not more than `headerBytes`. */
  readonly errorBytes: number;
  encodeErrorInto(bytes: Uint8Array, at: number, errno: number, cookieHigh: number, cookieLow: number): void;
}

/** The only format that the kernel's driver knows. */
export const SIMPLE_REPLIES: ReplyFormat = {
  headerBytes: SIMPLE_REPLY_BYTES,
  encodeHeaderInto: (bytes, at, { cookieHigh, cookieLow }) =>
    encodeReplyInto(bytes, at, 0, cookieHigh, cookieLow),
  errorBytes: SIMPLE_REPLY_BYTES,
  encodeErrorInto: encodeReplyInto,
};

export const STRUCTURED_REPLIES: ReplyFormat = {
  headerBytes: DATA_CHUNK_HEADER_BYTES,
  encodeHeaderInto: (bytes, at, request) =>
    encodeDataChunkInto(bytes, at, request, request.offsetBytes, request.lengthBytes, true),
  errorBytes: ERROR_CHUNK_BYTES,
  encodeErrorInto: encodeErrorChunkInto,
};
