/**
 * Netlink attributes (struct nlattr): type-length-value records, padded to four bytes, possibly nested. Pure.
 *
 * | offset | size | field | meaning |
 * |---|---|---|---|
 * | 0 | 2 | nla_len | header and payload, without the padding that follows |
 * | 2 | 2 | nla_type | 14 bits of type, NLA_F_NET_BYTEORDER, NLA_F_NESTED |
 * | 4 | … | payload | host byte order unless flagged |
 *
 * Source: include/uapi/linux/netlink.h, lib/nlattr.c, 6.1–7.2. Called by generic.ts, nbd.ts, ack.ts and trace.ts.
 */
import { endianness } from "node:os";
import {
  NLA_F_NESTED,
  NLA_F_NET_BYTEORDER,
  NLA_HDRLEN,
  NLA_MAX_PAYLOAD_BYTES,
  NLA_TYPE_MASK,
} from "../constants.ts";
import { DecodeError } from "../errors.ts";

/** Netlink headers and integers are in host byte order. */
export const HOST_LITTLE_ENDIAN: boolean = endianness() === "LE";

/** An attribute to be sent. Made by {@link u32} and the like, or by hand for other payloads. */
export interface Attribute {
  /** 0 to 16383; flags may be added. */
  readonly type: number;
  readonly payload: Uint8Array;
}

/** An attribute as received. `payload` is a view into the datagram, not a copy. */
export interface DecodedAttribute extends Attribute {
  readonly nested: boolean;
  readonly networkByteOrder: boolean;
  /** Where its header starts in the bytes given to {@link decodeAttributes}. */
  readonly offsetBytes: number;
}

/** Rounds up to the next multiple of four (NLMSG_ALIGN and NLA_ALIGN). */
export function align4(lengthBytes: number): number {
  return Math.ceil(lengthBytes / 4) * 4;
}

/** A DataView over exactly these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function requireRange(value: number, maximum: number, kind: string): void {
  if (!Number.isInteger(value)) throw new TypeError(`cannot encode ${value} as ${kind}: not an integer`);
  if (value < 0 || value > maximum) throw new RangeError(`cannot encode ${value} as ${kind}: out of range`);
}

/** One byte. @throws TypeError, RangeError */
export function u8(type: number, value: number): Attribute {
  requireRange(value, 0xff, "u8");
  return { type, payload: Uint8Array.of(value) };
}

/** Two bytes. @throws TypeError, RangeError */
export function u16(type: number, value: number): Attribute {
  requireRange(value, 0xffff, "u16");
  const payload = new Uint8Array(2);
  viewOf(payload).setUint16(0, value, HOST_LITTLE_ENDIAN);
  return { type, payload };
}

/** Four bytes. @throws TypeError, RangeError */
export function u32(type: number, value: number): Attribute {
  requireRange(value, 0xffff_ffff, "u32");
  const payload = new Uint8Array(4);
  viewOf(payload).setUint32(0, value, HOST_LITTLE_ENDIAN);
  return { type, payload };
}

/** Eight bytes; a number must be a safe integer, a bigint must fit 64 bits unsigned. @throws TypeError, RangeError */
export function u64(type: number, value: number | bigint): Attribute {
  if (typeof value === "number") requireRange(value, Number.MAX_SAFE_INTEGER, "u64");
  const wide = BigInt(value);
  if (wide < 0n || wide > 0xffff_ffff_ffff_ffffn)
    throw new RangeError(`cannot encode ${wide} as u64: out of range`);
  const payload = new Uint8Array(8);
  viewOf(payload).setBigUint64(0, wide, HOST_LITTLE_ENDIAN);
  return { type, payload };
}

/** UTF-8 with a terminating NUL. @throws RangeError when the text itself contains a NUL. */
export function string(type: number, value: string): Attribute {
  if (value.includes("\0")) throw new RangeError("cannot encode a string attribute: it contains a NUL");
  return { type, payload: new TextEncoder().encode(`${value}\0`) };
}

/** Attributes inside an attribute; NLA_F_NESTED is set. @throws RangeError beyond 65,531 bytes of children. */
export function nested(type: number, children: readonly Attribute[]): Attribute {
  return { type: type | NLA_F_NESTED, payload: encodeAttributes(children) };
}

/** Encodes attributes one after the other, each padded with zeros. @throws RangeError for an oversized one. */
export function encodeAttributes(attributes: readonly Attribute[]): Uint8Array {
  let lengthBytes = 0;
  for (const { type, payload } of attributes) {
    requireRange(type, 0xffff, "attribute type");
    if (payload.length > NLA_MAX_PAYLOAD_BYTES) {
      throw new RangeError(
        `cannot encode attribute ${type & NLA_TYPE_MASK}: ${payload.length} bytes exceed 65,531`,
      );
    }
    lengthBytes += align4(NLA_HDRLEN + payload.length);
  }
  const bytes = new Uint8Array(lengthBytes);
  const view = viewOf(bytes);
  let at = 0;
  for (const { type, payload } of attributes) {
    view.setUint16(at, NLA_HDRLEN + payload.length, HOST_LITTLE_ENDIAN);
    view.setUint16(at + 2, type, HOST_LITTLE_ENDIAN);
    bytes.set(payload, at + NLA_HDRLEN);
    at += align4(NLA_HDRLEN + payload.length);
  }
  return bytes;
}

/**
 * Splits a run of attributes. The last one may lack its padding.
 *
 * @throws DecodeError when a length is shorter than its own header, reaches past the end, or one to three bytes remain.
 */
export function decodeAttributes(bytes: Uint8Array): DecodedAttribute[] {
  const view = viewOf(bytes);
  const attributes: DecodedAttribute[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (bytes.length - at < NLA_HDRLEN) throw new DecodeError("attribute header cut short", at);
    const lengthBytes = view.getUint16(at, HOST_LITTLE_ENDIAN);
    const type = view.getUint16(at + 2, HOST_LITTLE_ENDIAN);
    if (lengthBytes < NLA_HDRLEN)
      throw new DecodeError(`attribute length ${lengthBytes} below its header`, at);
    if (lengthBytes > bytes.length - at) {
      throw new DecodeError(
        `attribute length ${lengthBytes} exceeds the ${bytes.length - at} bytes left`,
        at,
      );
    }
    attributes.push({
      type: type & NLA_TYPE_MASK,
      nested: (type & NLA_F_NESTED) !== 0,
      networkByteOrder: (type & NLA_F_NET_BYTEORDER) !== 0,
      offsetBytes: at,
      payload: bytes.subarray(at + NLA_HDRLEN, at + lengthBytes),
    });
    at += align4(lengthBytes);
  }
  return attributes;
}

/**
 * The attribute of that type, or undefined. If there are several, the last counts, as in the kernel (lib/nlattr.c,
 * __nla_parse).
 */
export function findAttribute(
  attributes: readonly DecodedAttribute[],
  type: number,
): DecodedAttribute | undefined {
  return attributes.findLast((attribute) => attribute.type === type);
}

function integerView(attribute: Attribute, lengthBytes: number): DataView {
  if (attribute.payload.length !== lengthBytes) {
    const got = attribute.payload.length;
    throw new DecodeError(`attribute ${attribute.type}: wanted ${lengthBytes} payload bytes, got ${got}`, 0);
  }
  return viewOf(attribute.payload);
}

function littleEndian(attribute: Attribute): boolean {
  return "networkByteOrder" in attribute && attribute.networkByteOrder === true ? false : HOST_LITTLE_ENDIAN;
}

/** @throws DecodeError unless the payload has exactly one byte. */
export function readU8(attribute: Attribute): number {
  return integerView(attribute, 1).getUint8(0);
}

/** @throws DecodeError unless the payload has exactly two bytes. */
export function readU16(attribute: Attribute): number {
  return integerView(attribute, 2).getUint16(0, littleEndian(attribute));
}

/** @throws DecodeError unless the payload has exactly four bytes. */
export function readU32(attribute: Attribute): number {
  return integerView(attribute, 4).getUint32(0, littleEndian(attribute));
}

/** @throws DecodeError unless the payload has exactly eight bytes. */
export function readU64(attribute: Attribute): bigint {
  return integerView(attribute, 8).getBigUint64(0, littleEndian(attribute));
}

/** UTF-8 up to the first NUL or the end; bytes that are no UTF-8 become replacement characters. */
export function readString(attribute: Attribute): string {
  const end = attribute.payload.indexOf(0);
  return new TextDecoder().decode(end < 0 ? attribute.payload : attribute.payload.subarray(0, end));
}

/** The attributes inside this one, whether or not NLA_F_NESTED is set. @throws DecodeError */
export function readNested(attribute: Attribute): DecodedAttribute[] {
  return decodeAttributes(attribute.payload);
}
