/**
 * The kernel's verdict on a request: NLMSG_ERROR with its extended-acknowledgement attributes, or NLMSG_DONE at the
 * end of a dump. Pure; called by transaction.ts.
 *
 * | offset | size | NLMSG_ERROR payload |
 * |---|---|---|
 * | 0 | 4 | error: 0 or a negative errno |
 * | 4 | 16 | the request's nlmsghdr |
 * | 20 | … | the request's payload, unless error is 0 or NLM_F_CAPPED is set |
 * | … | … | attributes NLMSGERR_ATTR_*, if NLM_F_ACK_TLVS is set |
 *
 * NLMSG_DONE has the error and then the attributes. Source: net/netlink/af_netlink.c, netlink_ack and
 * netlink_dump_done, 6.1–7.2.
 */

import * as C from "../constants.ts";
import { DecodeError } from "../errors.ts";
import {
  align4,
  type DecodedAttribute,
  decodeAttributes,
  findAttribute,
  HOST_LITTLE_ENDIAN,
  readString,
  readU32,
  viewOf,
} from "./attributes.ts";
import type { NetlinkMessage } from "./message.ts";

/** The kernel's verdict on a request. */
export interface Verdict {
  /** 0 for success, otherwise a positive errno. */
  readonly errno: number;
  /** The kernel's text; on success this is a warning. */
  readonly kernelMessage?: string;
  /** The start of the offending attribute, counted from the start of the request's nlmsghdr. */
  readonly attributeOffsetBytes?: number;
  /** The type of an attribute that was required and missing. */
  readonly missingType?: number;
  /** The nest in which it was missing, as an offset like the other; absent at the top level. */
  readonly missingNestOffsetBytes?: number;
}

const ERROR_BYTES = 4;

function errnoOf(payload: Uint8Array): number {
  if (payload.length < ERROR_BYTES) throw new DecodeError("error code cut short", 0);
  const errno = -viewOf(payload).getInt32(0, HOST_LITTLE_ENDIAN);
  if (errno < 0) throw new DecodeError(`error code ${-errno} is positive`, 0);
  return errno === 0 ? 0 : errno;
}

/** Where the extended attributes of an NLMSG_ERROR start. */
function attributesStart(message: NetlinkMessage, errno: number): number {
  const start = ERROR_BYTES + C.NLMSG_HDRLEN;
  if (message.payload.length < start)
    throw new DecodeError("acknowledgement cut short", message.payload.length);
  if (errno === 0 || (message.flags & C.NLM_F_CAPPED) !== 0) return start;
  const requestBytes = viewOf(message.payload).getUint32(ERROR_BYTES, HOST_LITTLE_ENDIAN);
  const end = ERROR_BYTES + align4(requestBytes);
  if (requestBytes < C.NLMSG_HDRLEN || end > message.payload.length) {
    throw new DecodeError(`repeated request of ${requestBytes} bytes does not fit`, ERROR_BYTES);
  }
  return end;
}

/** Reads an NLMSG_ERROR or NLMSG_DONE message. @throws DecodeError */
export function decodeVerdict(message: NetlinkMessage): Verdict {
  const isDone = message.type === C.NLMSG_DONE;
  if (isDone && message.payload.length === 0) return { errno: 0 };
  const errno = errnoOf(message.payload);
  const hasAttributes = (message.flags & C.NLM_F_ACK_TLVS) !== 0;
  if (isDone && !hasAttributes) return { errno };
  const start = isDone ? ERROR_BYTES : hasAttributes ? attributesStart(message, errno) : undefined;
  if (start === undefined) return { errno };
  return { errno, ...extendedPart(decodeAttributes(message.payload.subarray(start))) };
}

function extendedPart(attributes: readonly DecodedAttribute[]): Omit<Verdict, "errno"> {
  const text = findAttribute(attributes, C.NLMSGERR_ATTR_MSG);
  const offset = findAttribute(attributes, C.NLMSGERR_ATTR_OFFS);
  const missing = findAttribute(attributes, C.NLMSGERR_ATTR_MISS_TYPE);
  const nest = findAttribute(attributes, C.NLMSGERR_ATTR_MISS_NEST);
  return {
    ...(text === undefined ? {} : { kernelMessage: readString(text) }),
    ...(offset === undefined ? {} : { attributeOffsetBytes: readU32(offset) }),
    ...(missing === undefined ? {} : { missingType: readU32(missing) }),
    ...(nest === undefined ? {} : { missingNestOffsetBytes: readU32(nest) }),
  };
}
