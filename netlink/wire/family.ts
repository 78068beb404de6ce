/**
 * Family descriptions from the controller, and the shape of a family's own messages. Pure.
 *
 * Called by generic.ts for answers and by events.ts for announcements. Source: net/netlink/genetlink.c, ctrl_fill_info,
 * 6.1–7.2.
 */

import * as C from "../constants.ts";
import { DecodeError } from "../errors.ts";
import {
  type DecodedAttribute,
  decodeAttributes,
  findAttribute,
  readNested,
  readString,
  readU16,
  readU32,
} from "./attributes.ts";
import { decodeGenericPayload } from "./message.ts";
import { CONTROLLER_SCHEMA } from "./schema.ts";

/** A multicast group of a family. */
export interface FamilyGroup {
  readonly name: string;
  readonly id: number;
}

/** A family as the controller describes it. `id` and the groups' ids change when its module is loaded again. */
export interface GenericFamily {
  readonly name: string;
  readonly id: number;
  readonly version: number;
  readonly headerSizeBytes: number;
  readonly maximumAttribute: number;
  readonly groups: readonly FamilyGroup[];
}

/** One data message of an answer, or one event. */
export interface GenericMessage {
  readonly command: number;
  readonly version: number;
  readonly attributes: readonly DecodedAttribute[];
}

function required(attributes: readonly DecodedAttribute[], type: number): DecodedAttribute {
  const attribute = findAttribute(attributes, type);
  if (attribute !== undefined) return attribute;
  const name = CONTROLLER_SCHEMA.attributes[type]?.name ?? `attribute ${type}`;
  throw new DecodeError(`${name} is missing`, 0);
}

/** Reads a family description: CTRL_CMD_NEWFAMILY, asked for or announced. @throws DecodeError */
export function decodeFamily(attributes: readonly DecodedAttribute[]): GenericFamily {
  const number = (type: number): number => {
    const attribute = findAttribute(attributes, type);
    return attribute === undefined ? 0 : readU32(attribute);
  };
  const groups = findAttribute(attributes, C.CTRL_ATTR_MCAST_GROUPS);
  return {
    name: readString(required(attributes, C.CTRL_ATTR_FAMILY_NAME)),
    id: readU16(required(attributes, C.CTRL_ATTR_FAMILY_ID)),
    version: number(C.CTRL_ATTR_VERSION),
    headerSizeBytes: number(C.CTRL_ATTR_HDRSIZE),
    maximumAttribute: number(C.CTRL_ATTR_MAXATTR),
    groups: groups === undefined ? [] : readNested(groups).map(decodeGroup),
  };
}

function decodeGroup(group: DecodedAttribute): FamilyGroup {
  const fields = readNested(group);
  const name = findAttribute(fields, C.CTRL_ATTR_MCAST_GRP_NAME);
  const id = findAttribute(fields, C.CTRL_ATTR_MCAST_GRP_ID);
  if (name === undefined || id === undefined) throw new DecodeError("multicast group without name or id", 0);
  return { name: readString(name), id: readU32(id) };
}

/** Splits a generic message's payload into command and attributes. @throws DecodeError */
export function decodeGenericMessage(payload: Uint8Array): GenericMessage {
  const { command, version, body } = decodeGenericPayload(payload);
  return { command, version, attributes: decodeAttributes(body) };
}
