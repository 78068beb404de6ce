/**
 * Names and shapes of a family's commands and attributes: what trace.ts prints and what turns a byte offset in an
 * extended acknowledgement into an attribute's name. Tables and pure look-ups; never used to encode anything.
 */

import * as C from "../constants.ts";
import { decodeAttributes } from "./attributes.ts";

/** How an attribute's payload is to be printed. */
export type AttributeKind = "u8" | "u16" | "u32" | "u64" | "string" | "nested" | "binary";

/** One attribute: its header name, its payload, its children where it is nested. */
export interface AttributeShape {
  readonly name: string;
  readonly kind: AttributeKind;
  /** Shapes of the children by type. */
  readonly children?: AttributeShapes;
  /** The shape of every child, for arrays whose types only count upwards. */
  readonly element?: AttributeShape;
}

/** Shapes by attribute type. */
export type AttributeShapes = Readonly<Record<number, AttributeShape>>;

/** A generic netlink family as its header describes it. */
export interface FamilySchema {
  readonly familyName: string;
  /** Command numbers to names without prefix. */
  readonly commands: Readonly<Record<number, string>>;
  readonly attributes: AttributeShapes;
}

/** The controller, family id 16 (include/uapi/linux/genetlink.h). */
export const CONTROLLER_SCHEMA: FamilySchema = {
  familyName: "nlctrl",
  commands: {
    [C.CTRL_CMD_NEWFAMILY]: "NEWFAMILY",
    [C.CTRL_CMD_DELFAMILY]: "DELFAMILY",
    [C.CTRL_CMD_GETFAMILY]: "GETFAMILY",
    [C.CTRL_CMD_NEWMCAST_GRP]: "NEWMCAST_GRP",
    [C.CTRL_CMD_DELMCAST_GRP]: "DELMCAST_GRP",
  },
  attributes: {
    [C.CTRL_ATTR_FAMILY_ID]: { name: "CTRL_ATTR_FAMILY_ID", kind: "u16" },
    [C.CTRL_ATTR_FAMILY_NAME]: { name: "CTRL_ATTR_FAMILY_NAME", kind: "string" },
    [C.CTRL_ATTR_VERSION]: { name: "CTRL_ATTR_VERSION", kind: "u32" },
    [C.CTRL_ATTR_HDRSIZE]: { name: "CTRL_ATTR_HDRSIZE", kind: "u32" },
    [C.CTRL_ATTR_MAXATTR]: { name: "CTRL_ATTR_MAXATTR", kind: "u32" },
    [C.CTRL_ATTR_OPS]: {
      name: "CTRL_ATTR_OPS",
      kind: "nested",
      element: {
        name: "OP",
        kind: "nested",
        children: {
          [C.CTRL_ATTR_OP_ID]: { name: "CTRL_ATTR_OP_ID", kind: "u32" },
          [C.CTRL_ATTR_OP_FLAGS]: { name: "CTRL_ATTR_OP_FLAGS", kind: "u32" },
        },
      },
    },
    [C.CTRL_ATTR_MCAST_GROUPS]: {
      name: "CTRL_ATTR_MCAST_GROUPS",
      kind: "nested",
      element: {
        name: "GROUP",
        kind: "nested",
        children: {
          [C.CTRL_ATTR_MCAST_GRP_NAME]: { name: "CTRL_ATTR_MCAST_GRP_NAME", kind: "string" },
          [C.CTRL_ATTR_MCAST_GRP_ID]: { name: "CTRL_ATTR_MCAST_GRP_ID", kind: "u32" },
        },
      },
    },
  },
};

/** The nbd family (include/uapi/linux/nbd-netlink.h). */
export const NBD_SCHEMA: FamilySchema = {
  familyName: C.NBD_GENL_FAMILY_NAME,
  commands: {
    [C.NBD_CMD_CONNECT]: "CONNECT",
    [C.NBD_CMD_DISCONNECT]: "DISCONNECT",
    [C.NBD_CMD_RECONFIGURE]: "RECONFIGURE",
    [C.NBD_CMD_LINK_DEAD]: "LINK_DEAD",
    [C.NBD_CMD_STATUS]: "STATUS",
  },
  attributes: {
    [C.NBD_ATTR_INDEX]: { name: "NBD_ATTR_INDEX", kind: "u32" },
    [C.NBD_ATTR_SIZE_BYTES]: { name: "NBD_ATTR_SIZE_BYTES", kind: "u64" },
    [C.NBD_ATTR_BLOCK_SIZE_BYTES]: { name: "NBD_ATTR_BLOCK_SIZE_BYTES", kind: "u64" },
    [C.NBD_ATTR_TIMEOUT]: { name: "NBD_ATTR_TIMEOUT", kind: "u64" },
    [C.NBD_ATTR_SERVER_FLAGS]: { name: "NBD_ATTR_SERVER_FLAGS", kind: "u64" },
    [C.NBD_ATTR_CLIENT_FLAGS]: { name: "NBD_ATTR_CLIENT_FLAGS", kind: "u64" },
    [C.NBD_ATTR_SOCKETS]: {
      name: "NBD_ATTR_SOCKETS",
      kind: "nested",
      children: {
        [C.NBD_SOCK_ITEM]: {
          name: "NBD_SOCK_ITEM",
          kind: "nested",
          children: { [C.NBD_SOCK_FD]: { name: "NBD_SOCK_FD", kind: "u32" } },
        },
      },
    },
    [C.NBD_ATTR_DEAD_CONN_TIMEOUT]: { name: "NBD_ATTR_DEAD_CONN_TIMEOUT", kind: "u64" },
    [C.NBD_ATTR_DEVICE_LIST]: {
      name: "NBD_ATTR_DEVICE_LIST",
      kind: "nested",
      children: {
        [C.NBD_DEVICE_ITEM]: {
          name: "NBD_DEVICE_ITEM",
          kind: "nested",
          children: {
            [C.NBD_DEVICE_INDEX]: { name: "NBD_DEVICE_INDEX", kind: "u32" },
            [C.NBD_DEVICE_CONNECTED]: { name: "NBD_DEVICE_CONNECTED", kind: "u8" },
          },
        },
      },
    },
    [C.NBD_ATTR_BACKEND_IDENTIFIER]: { name: "NBD_ATTR_BACKEND_IDENTIFIER", kind: "string" },
  },
};

/** A command's name without prefix, or "command 9". */
export function nameOfCommand(schema: FamilySchema, command: number): string {
  return schema.commands[command] ?? `command ${command}`;
}

/** The shape of a child of that type inside `parent`. */
export function childShape(parent: AttributeShape, type: number): AttributeShape | undefined {
  return parent.children?.[type] ?? parent.element;
}

/**
 * The dotted name of the attribute whose header starts at `offsetBytes` of `bytes`, or undefined when none does.
 *
 * @param bytes a run of attributes that {@link decodeAttributes} accepts
 */
export function attributeNameAt(
  bytes: Uint8Array,
  offsetBytes: number,
  shapes: AttributeShapes,
): string | undefined {
  for (const attribute of decodeAttributes(bytes)) {
    const shape = shapes[attribute.type];
    const name = shape?.name ?? `attribute ${attribute.type}`;
    if (attribute.offsetBytes === offsetBytes) return name;
    const payloadOffset = attribute.offsetBytes + C.NLA_HDRLEN;
    if (offsetBytes < payloadOffset || offsetBytes >= payloadOffset + attribute.payload.length) continue;
    if (shape?.kind !== "nested") return name;
    const inner = shape.children ?? elementShapes(shape, attribute.payload);
    const child = attributeNameAt(attribute.payload, offsetBytes - payloadOffset, inner);
    return child === undefined ? name : `${name}.${child}`;
  }
  return undefined;
}

function elementShapes(shape: AttributeShape, payload: Uint8Array): AttributeShapes {
  const element = shape.element;
  if (element === undefined) return {};
  return Object.fromEntries(decodeAttributes(payload).map(({ type }) => [type, element]));
}
