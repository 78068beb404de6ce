/**
 * Prints the traffic: one line per message on stderr when EROFS_NBD_DEBUG contains "netlink".
 *
 * Called by socket.ts and events.ts. Never throws: what cannot be decoded is printed as hex. Example:
 * `netlink > nbd CONNECT seq=7 flags=REQUEST|ACK NBD_ATTR_SIZE_BYTES=4096 NBD_ATTR_SOCKETS=[NBD_SOCK_ITEM=[…]]`
 */

import * as C from "../constants.ts";
import { errnoName } from "../errors.ts";
import { decodeVerdict } from "./ack.ts";
import {
  type DecodedAttribute,
  decodeAttributes,
  readNested,
  readString,
  readU8,
  readU16,
  readU32,
  readU64,
} from "./attributes.ts";
import { decodeGenericPayload, decodeMessages, type NetlinkMessage } from "./message.ts";
import {
  type AttributeShape,
  CONTROLLER_SCHEMA,
  childShape,
  type FamilySchema,
  nameOfCommand,
} from "./schema.ts";

/** Receives whole lines without a line end. */
export type TraceSink = (line: string) => void;

/** ">" to the kernel, "<" from it, "*" multicast from it. */
export type TraceDirection = ">" | "<" | "*";

const MAXIMUM_HEX_BYTES = 64;
const MAXIMUM_DEPTH = 8;

const REQUEST_FLAGS: Readonly<Record<number, string>> = {
  [C.NLM_F_REQUEST]: "REQUEST",
  [C.NLM_F_MULTI]: "MULTI",
  [C.NLM_F_ACK]: "ACK",
  [C.NLM_F_DUMP_INTR]: "DUMP_INTR",
};

/** The sink named by EROFS_NBD_DEBUG (a list separated by commas), or undefined when it does not name netlink. */
export function traceSinkFromEnvironment(
  environment: NodeJS.ProcessEnv = process.env,
): TraceSink | undefined {
  const { EROFS_NBD_DEBUG = "" } = environment;
  const topics = EROFS_NBD_DEBUG.split(",").map((topic) => topic.trim());
  if (!topics.includes("netlink")) return undefined;
  return (line) => process.stderr.write(`${line}\n`);
}

function hex(bytes: Uint8Array): string {
  const shown = Buffer.from(bytes.subarray(0, MAXIMUM_HEX_BYTES)).toString("hex");
  return bytes.length > MAXIMUM_HEX_BYTES ? `${shown}… (${bytes.length} bytes)` : shown;
}

function flagNames(flags: number, isVerdict: boolean): string {
  const names: string[] = [];
  let rest = flags;
  const take = (bits: number, name: string): void => {
    if ((rest & bits) !== bits) return;
    names.push(name);
    rest &= ~bits;
  };
  for (const [bits, name] of Object.entries(REQUEST_FLAGS)) take(Number(bits), name);
  if (isVerdict) {
    take(C.NLM_F_CAPPED, "CAPPED");
    take(C.NLM_F_ACK_TLVS, "ACK_TLVS");
  } else {
    take(C.NLM_F_DUMP, "DUMP");
  }
  if (rest !== 0) names.push(`0x${rest.toString(16)}`);
  return names.length === 0 ? "0" : names.join("|");
}

function formatValue(attribute: DecodedAttribute, shape: AttributeShape | undefined, depth: number): string {
  if (depth >= MAXIMUM_DEPTH) return hex(attribute.payload);
  switch (shape?.kind) {
    case "u8":
      return String(readU8(attribute));
    case "u16":
      return String(readU16(attribute));
    case "u32":
      return String(readU32(attribute));
    case "u64":
      return String(readU64(attribute));
    case "string":
      return JSON.stringify(readString(attribute));
    case "nested":
      return `[${readNested(attribute)
        .map((child) => formatAttribute(child, childShape(shape, child.type), depth + 1))
        .join(" ")}]`;
    default:
      return hex(attribute.payload);
  }
}

function formatAttribute(
  attribute: DecodedAttribute,
  shape: AttributeShape | undefined,
  depth: number,
): string {
  const name = shape?.name ?? `attribute ${attribute.type}`;
  try {
    return `${name}=${formatValue(attribute, shape, depth)}`;
  } catch {
    // The trace is read to find such a message: show the bytes instead of failing.
    return `${name}=!${hex(attribute.payload)}`;
  }
}

function formatVerdict(message: NetlinkMessage): string {
  const word = message.type === C.NLMSG_DONE ? "DONE" : "ACK";
  const verdict = decodeVerdict(message);
  const parts = [
    verdict.errno === 0 ? `${word} ok` : `${word} ${errnoName(verdict.errno)} (${verdict.errno})`,
  ];
  parts.push(`seq=${message.sequence}`, `flags=${flagNames(message.flags, true)}`);
  if (verdict.kernelMessage !== undefined) parts.push(`message=${JSON.stringify(verdict.kernelMessage)}`);
  if (verdict.attributeOffsetBytes !== undefined) parts.push(`offset=${verdict.attributeOffsetBytes}`);
  if (verdict.missingType !== undefined) parts.push(`missing-type=${verdict.missingType}`);
  return parts.join(" ");
}

function formatGeneric(message: NetlinkMessage, given: FamilySchema | undefined): string {
  const schema = message.type === C.GENL_ID_CTRL ? CONTROLLER_SCHEMA : given;
  const head = `seq=${message.sequence} flags=${flagNames(message.flags, false)}`;
  const { command, body } = decodeGenericPayload(message.payload);
  if (schema === undefined) return `family ${message.type} command ${command} ${head} ${hex(body)}`;
  const attributes = decodeAttributes(body).map((attribute) =>
    formatAttribute(attribute, schema.attributes[attribute.type], 0),
  );
  return [`${schema.familyName} ${nameOfCommand(schema, command)} ${head}`, ...attributes].join(" ");
}

/** One message as a line; `schema` names the family's attributes where the message is not the controller's. */
export function formatMessage(message: NetlinkMessage, schema?: FamilySchema): string {
  try {
    const isVerdict = message.type === C.NLMSG_ERROR || message.type === C.NLMSG_DONE;
    return isVerdict ? formatVerdict(message) : formatGeneric(message, schema);
  } catch {
    // See formatAttribute.
    const { type, sequence, flags, payload } = message;
    return `undecodable type=${type} seq=${sequence} flags=0x${flags.toString(16)} ${hex(payload)}`;
  }
}

/** Writes every message of a datagram to the sink. Does nothing without one. */
export function traceDatagram(
  sink: TraceSink | undefined,
  direction: TraceDirection,
  datagram: Uint8Array,
  schema?: FamilySchema,
): void {
  if (sink === undefined) return;
  try {
    for (const message of decodeMessages(datagram))
      sink(`netlink ${direction} ${formatMessage(message, schema)}`);
  } catch {
    // See formatAttribute.
    sink(`netlink ${direction} undecodable datagram ${hex(datagram)}`);
  }
}
