/**
 * Netlink messages (struct nlmsghdr) and the generic netlink header (struct genlmsghdr) inside them. Pure.
 *
 * | offset | size | field | | offset | size | field (generic) |
 * |---|---|---|---|---|---|---|
 * | 0 | 4 | nlmsg_len, header included | | 16 | 1 | cmd |
 * | 4 | 2 | nlmsg_type (generic: the family id) | | 17 | 1 | version |
 * | 6 | 2 | nlmsg_flags | | 18 | 2 | reserved |
 * | 8 | 4 | nlmsg_seq | | 20 | … | family header, attributes |
 * | 12 | 4 | nlmsg_pid: the user side's port | | | | |
 *
 * Source: include/uapi/linux/netlink.h and genetlink.h, 6.1–7.2; host byte order. Called by socket.ts and generic.ts.
 */

import { GENL_HDRLEN, NLMSG_HDRLEN } from "../constants.ts";
import { DecodeError } from "../errors.ts";
import { align4, HOST_LITTLE_ENDIAN, viewOf } from "./attributes.ts";

/** One netlink message. Received payloads are views into the datagram. */
export interface NetlinkMessage {
  readonly type: number;
  /** NLM_F_* */
  readonly flags: number;
  readonly sequence: number;
  readonly portId: number;
  readonly payload: Uint8Array;
}

/** The payload of a generic netlink message. */
export interface GenericPayload {
  readonly command: number;
  readonly version: number;
  /** Everything after the generic header: the family's own header, if it has one, then attributes. */
  readonly body: Uint8Array;
}

/** Encodes one message, padded to four bytes. */
export function encodeMessage(message: NetlinkMessage): Uint8Array {
  const lengthBytes = NLMSG_HDRLEN + message.payload.length;
  const bytes = new Uint8Array(align4(lengthBytes));
  const view = viewOf(bytes);
  view.setUint32(0, lengthBytes, HOST_LITTLE_ENDIAN);
  view.setUint16(4, message.type, HOST_LITTLE_ENDIAN);
  view.setUint16(6, message.flags, HOST_LITTLE_ENDIAN);
  view.setUint32(8, message.sequence, HOST_LITTLE_ENDIAN);
  view.setUint32(12, message.portId, HOST_LITTLE_ENDIAN);
  bytes.set(message.payload, NLMSG_HDRLEN);
  return bytes;
}

/**
 * Splits one datagram into its messages.
 *
 * @throws DecodeError when a length is below the header, reaches past the end, or less than a header remains.
 */
export function decodeMessages(datagram: Uint8Array): NetlinkMessage[] {
  const view = viewOf(datagram);
  const messages: NetlinkMessage[] = [];
  let at = 0;
  while (at < datagram.length) {
    if (datagram.length - at < NLMSG_HDRLEN) throw new DecodeError("message header cut short", at);
    const lengthBytes = view.getUint32(at, HOST_LITTLE_ENDIAN);
    if (lengthBytes < NLMSG_HDRLEN)
      throw new DecodeError(`message length ${lengthBytes} below its header`, at);
    if (lengthBytes > datagram.length - at) {
      throw new DecodeError(
        `message length ${lengthBytes} exceeds the ${datagram.length - at} bytes left`,
        at,
      );
    }
    messages.push({
      type: view.getUint16(at + 4, HOST_LITTLE_ENDIAN),
      flags: view.getUint16(at + 6, HOST_LITTLE_ENDIAN),
      sequence: view.getUint32(at + 8, HOST_LITTLE_ENDIAN),
      portId: view.getUint32(at + 12, HOST_LITTLE_ENDIAN),
      payload: datagram.subarray(at + NLMSG_HDRLEN, at + lengthBytes),
    });
    at += align4(lengthBytes);
  }
  return messages;
}

/** Puts the generic header in front of a body. */
export function encodeGenericPayload(payload: GenericPayload): Uint8Array {
  const bytes = new Uint8Array(GENL_HDRLEN + payload.body.length);
  bytes[0] = payload.command;
  bytes[1] = payload.version;
  bytes.set(payload.body, GENL_HDRLEN);
  return bytes;
}

/** Takes the generic header off a message's payload. @throws DecodeError when it is shorter than that header. */
export function decodeGenericPayload(payload: Uint8Array): GenericPayload {
  const [command, version] = payload;
  if (payload.length < GENL_HDRLEN || command === undefined || version === undefined) {
    throw new DecodeError("generic netlink header cut short", payload.length);
  }
  return { command, version, body: payload.subarray(GENL_HDRLEN) };
}
