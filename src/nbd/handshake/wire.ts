/**
 * The wire format of the newstyle handshake: the protocol's constants, option and reply messages, strings.
 *
 * Used by the server's side (server.ts) and by the client's side of the tests, which know the order of messages.
 *
 * Source: the protocol's doc/proto.md, "Handshake phase", "Option types", "Option reply types".
 */

import { concatBytes } from "../byte-queue.ts";

/** ASCII "NBDMAGIC": the first eight bytes of every server. */
export const NBDMAGIC = 0x4e42444d41474943n;
/** ASCII "IHAVEOPT": follows in newstyle, and starts each option of the client. */
export const IHAVEOPT = 0x49484156454f5054n;
/** What an oldstyle server sends in IHAVEOPT's place. */
export const CLISERV_MAGIC = 0x0000420281861253n;
/** Starts each option reply. */
export const NBD_REP_MAGIC = 0x0003e889045565a9n;

/** Bytes of the server's greeting: NBDMAGIC, IHAVEOPT, 16 bits of handshake flags. */
export const GREETING_BYTES = 18;
/** Bytes of an option's header: IHAVEOPT, option, length of its data. */
export const OPTION_HEADER_BYTES = 16;
/** Bytes of an option reply's header: magic, option, reply type, length of its data. */
export const OPTION_REPLY_HEADER_BYTES = 20;
/** Zero bytes after the reply to EXPORT_NAME unless NO_ZEROES was agreed on. */
export const EXPORT_NAME_ZEROES = 124;

/** Handshake flags of the server and, with the same bits, of the client. */
export const NBD_FLAG_FIXED_NEWSTYLE = 0x1;
export const NBD_FLAG_NO_ZEROES = 0x2;
export const NBD_FLAG_C_FIXED_NEWSTYLE = 0x1;
export const NBD_FLAG_C_NO_ZEROES = 0x2;

/** Options. */
export const NBD_OPT_EXPORT_NAME = 1;
export const NBD_OPT_ABORT = 2;
export const NBD_OPT_LIST = 3;
export const NBD_OPT_STARTTLS = 5;
export const NBD_OPT_INFO = 6;
export const NBD_OPT_GO = 7;
export const NBD_OPT_STRUCTURED_REPLY = 8;
export const NBD_OPT_LIST_META_CONTEXT = 9;
export const NBD_OPT_SET_META_CONTEXT = 10;
export const NBD_OPT_EXTENDED_HEADERS = 11;

/** Option replies; errors have bit 31 set. */
export const NBD_REP_ACK = 1;
export const NBD_REP_SERVER = 2;
export const NBD_REP_INFO = 3;
export const NBD_REP_META_CONTEXT = 4;
export const NBD_REP_FLAG_ERROR = 0x8000_0000;
export const NBD_REP_ERR_UNSUP: number = NBD_REP_FLAG_ERROR + 1;
export const NBD_REP_ERR_POLICY: number = NBD_REP_FLAG_ERROR + 2;
export const NBD_REP_ERR_INVALID: number = NBD_REP_FLAG_ERROR + 3;
export const NBD_REP_ERR_PLATFORM: number = NBD_REP_FLAG_ERROR + 4;
export const NBD_REP_ERR_TLS_REQD: number = NBD_REP_FLAG_ERROR + 5;
export const NBD_REP_ERR_UNKNOWN: number = NBD_REP_FLAG_ERROR + 6;
export const NBD_REP_ERR_SHUTDOWN: number = NBD_REP_FLAG_ERROR + 7;
export const NBD_REP_ERR_BLOCK_SIZE_REQD: number = NBD_REP_FLAG_ERROR + 8;
export const NBD_REP_ERR_TOO_BIG: number = NBD_REP_FLAG_ERROR + 9;

/** Kinds of information inside NBD_REP_INFO. */
export const NBD_INFO_EXPORT = 0;
export const NBD_INFO_NAME = 1;
export const NBD_INFO_DESCRIPTION = 2;
export const NBD_INFO_BLOCK_SIZE = 3;

/** Longest string the protocol allows: export names, descriptions, error texts. */
export const MAX_STRING_BYTES = 4096;

/** The largest minimum block size the protocol allows. */
export const MAX_MINIMUM_BLOCK_BYTES = 0x1_0000;

/** A maximum block size that means "no limit". */
export const UNLIMITED_BLOCK_BYTES = 0xffff_ffff;

const OPTION_NAMES: ReadonlyMap<number, string> = new Map([
  [NBD_OPT_EXPORT_NAME, "EXPORT_NAME"],
  [NBD_OPT_ABORT, "ABORT"],
  [NBD_OPT_LIST, "LIST"],
  [NBD_OPT_STARTTLS, "STARTTLS"],
  [NBD_OPT_INFO, "INFO"],
  [NBD_OPT_GO, "GO"],
  [NBD_OPT_STRUCTURED_REPLY, "STRUCTURED_REPLY"],
  [NBD_OPT_LIST_META_CONTEXT, "LIST_META_CONTEXT"],
  [NBD_OPT_SET_META_CONTEXT, "SET_META_CONTEXT"],
  [NBD_OPT_EXTENDED_HEADERS, "EXTENDED_HEADERS"],
]);

const REPLY_ERROR_NAMES: ReadonlyMap<number, string> = new Map([
  [NBD_REP_ERR_UNSUP, "ERR_UNSUP, not supported"],
  [NBD_REP_ERR_POLICY, "ERR_POLICY, forbidden by its policy"],
  [NBD_REP_ERR_INVALID, "ERR_INVALID, malformed"],
  [NBD_REP_ERR_PLATFORM, "ERR_PLATFORM, not possible on its platform"],
  [NBD_REP_ERR_TLS_REQD, "ERR_TLS_REQD, it insists on TLS"],
  [NBD_REP_ERR_UNKNOWN, "ERR_UNKNOWN, no such export"],
  [NBD_REP_ERR_SHUTDOWN, "ERR_SHUTDOWN, it is shutting down"],
  [NBD_REP_ERR_BLOCK_SIZE_REQD, "ERR_BLOCK_SIZE_REQD, it insists on its block sizes"],
  [NBD_REP_ERR_TOO_BIG, "ERR_TOO_BIG, too large"],
]);

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** An option's name for messages. */
export function optionName(option: number): string {
  return OPTION_NAMES.get(option) ?? `option ${option}`;
}

/** An error reply's name and meaning for messages. */
export function replyErrorName(type: number): string {
  return REPLY_ERROR_NAMES.get(type) ?? `error 0x${type.toString(16)}`;
}

/** UTF-8 bytes of a string. */
export function encodeText(text: string): Uint8Array {
  return encoder.encode(text);
}

/** The string in `bytes`; invalid UTF-8 becomes U+FFFD. Not for printing: see {@link quoteText}. */
export function decodeText(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** A string from the peer, made safe for one line of a log: quoted, escaped, cut after 64 characters. */
export function quoteText(text: string): string {
  const short = text.length > 64 ? `${text.slice(0, 64)}…` : text;
  const codePoint = (char: string): string => `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`;
  return `'${short.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, codePoint)}'`;
}

/** A big-endian 16-bit number. */
export function u16Bytes(value: number): Uint8Array {
  return new Uint8Array([value >>> 8, value]);
}

/** A big-endian 32-bit number. */
export function u32Bytes(value: number): Uint8Array {
  return new Uint8Array([value >>> 24, value >>> 16, value >>> 8, value]);
}

/** A big-endian 64-bit number. */
export function u64Bytes(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}

/** One whole option of the client. */
export function encodeOption(option: number, data: Uint8Array): Uint8Array {
  return concatBytes([u64Bytes(IHAVEOPT), u32Bytes(option), u32Bytes(data.length), data]);
}

/** One whole option reply of the server. */
export function encodeOptionReply(option: number, type: number, data: Uint8Array): Uint8Array {
  return concatBytes([
    u64Bytes(NBD_REP_MAGIC),
    u32Bytes(option),
    u32Bytes(type),
    u32Bytes(data.length),
    data,
  ]);
}

/** Whether a number is a power of two (1 included). */
export function isPowerOfTwo(value: number): boolean {
  return value > 0 && value <= 0x8000_0000 && (value & (value - 1)) === 0;
}
