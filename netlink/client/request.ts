/**
 * Labels of requests, and the conversion of a kernel verdict, a failed system call or a passed deadline into a
 * NetlinkError. Pure; called by socket.ts and generic.ts.
 */
import { constants } from "node:os";
import * as C from "../constants.ts";
import { DecodeError, NetlinkError, type NetlinkErrorDetails, SyscallError } from "../errors.ts";
import type { Verdict } from "../wire/ack.ts";
import { attributeNameAt, type FamilySchema } from "../wire/schema.ts";
import { hintFor } from "./hints.ts";

/** Names for messages, traces and hints. */
export interface RequestLabel {
  /** What is being done, to follow "cannot": "connect nbd3". */
  readonly purpose: string;
  /** The command's name without prefix: "CONNECT". */
  readonly command: string;
  /** Describes the family's attributes. */
  readonly schema?: FamilySchema | undefined;
  /** The family a hint is looked up for, if it is not the schema's: GETFAMILY asks about another one. */
  readonly subjectFamily?: string | undefined;
  readonly deviceIndex?: number | undefined;
}

/** The length of what precedes the attributes in a generic netlink request of a family without a header of its own. */
const ATTRIBUTES_START = C.NLMSG_HDRLEN + C.GENL_HDRLEN;

type Failure = Pick<NetlinkErrorDetails, "code" | "origin"> & Partial<NetlinkErrorDetails>;

/** A {@link NetlinkError} for this request, with its hint. */
export function requestError(label: RequestLabel, failure: Failure): NetlinkError {
  const family = label.subjectFamily ?? label.schema?.familyName ?? "*";
  return new NetlinkError({
    purpose: label.purpose,
    command: label.command,
    deviceIndex: label.deviceIndex,
    hint: hintFor(family, label.command, failure.errno),
    ...failure,
  });
}

/**
 * The kernel's refusal, with the name of the attribute it rejected. `requestBytes` is the whole message that was sent.
 */
export function refusal(
  label: RequestLabel,
  verdict: Verdict,
  request: { readonly bytes: Uint8Array; readonly sequence: number },
): NetlinkError {
  const isFamilyMissing = label.command === "GETFAMILY" && verdict.errno === constants.errno.ENOENT;
  return requestError(label, {
    code: isFamilyMissing ? "ERR_NETLINK_NO_FAMILY" : "ERR_NETLINK_REFUSED",
    origin: "ack",
    errno: verdict.errno,
    kernelMessage: verdict.kernelMessage,
    sequence: request.sequence,
    ...offendingAttribute(label.schema, verdict, request.bytes),
  });
}

function offendingAttribute(
  schema: FamilySchema | undefined,
  verdict: Verdict,
  requestBytes: Uint8Array,
): Pick<NetlinkErrorDetails, "kernelAttribute" | "kernelAttributeProblem"> {
  const attributes = requestBytes.subarray(ATTRIBUTES_START);
  const nameAt = (offsetBytes: number): string | undefined =>
    attributeNameAt(attributes, offsetBytes - ATTRIBUTES_START, schema?.attributes ?? {});
  if (verdict.missingType !== undefined) {
    const nestOffset = verdict.missingNestOffsetBytes;
    const nest = nestOffset === undefined ? undefined : (nameAt(nestOffset) ?? `byte ${nestOffset}`);
    const top = nest === undefined ? schema?.attributes[verdict.missingType]?.name : undefined;
    const name = top ?? `attribute ${verdict.missingType}`;
    return {
      kernelAttribute: nest === undefined ? name : `${nest}.${name}`,
      kernelAttributeProblem: "missing",
    };
  }
  if (verdict.attributeOffsetBytes === undefined) return {};
  const name = nameAt(verdict.attributeOffsetBytes);
  return name === undefined ? {} : { kernelAttribute: name, kernelAttributeProblem: "rejected" };
}

/** Wraps any error of a request; a NetlinkError is returned as it is. */
export function wrapFailure(label: RequestLabel, error: unknown, sequence?: number): Error {
  if (error instanceof NetlinkError) return error;
  if (error instanceof DecodeError) {
    const reason = `the kernel's answer cannot be decoded (${error.message})`;
    return requestError(label, {
      code: "ERR_NETLINK_DECODE",
      origin: "decode",
      reason,
      sequence,
      cause: error,
    });
  }
  if (error instanceof SyscallError) {
    const reason = `could not ${error.syscall} the netlink socket`;
    const { errno } = error;
    return requestError(label, {
      code: "ERR_NETLINK_SYSCALL",
      origin: "syscall",
      errno,
      reason,
      sequence,
      cause: error,
    });
  }
  return error instanceof Error ? error : new Error(String(error));
}

/** The answer was dropped because the buffer was full, or did not fit. */
export function answerLost(label: RequestLabel, sequence: number): NetlinkError {
  return requestError(label, {
    code: "ERR_NETLINK_ANSWER_LOST",
    origin: "syscall",
    errno: constants.errno.ENOBUFS,
    reason: "the kernel's answer was lost",
    sequence,
  });
}
