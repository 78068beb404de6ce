/**
 * Netlink bytes built by hand for tests: little-endian, no import from netlink/, so that encoder and decoder cannot
 * share a mistake with what they are tested against. Called by the unit and property tests only.
 */

export const PORT_ID = 4711;

export function uint(sizeBytes: 1 | 2 | 4 | 8, value: number): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  if (sizeBytes === 8) bytes.writeBigUInt64LE(BigInt(value));
  else bytes.writeUIntLE(value, 0, sizeBytes);
  return bytes;
}

export function text(value: string): Buffer {
  return Buffer.from(`${value}\0`);
}

export function attribute(type: number, ...payload: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(payload);
  const padding = Buffer.alloc((4 - (body.length % 4)) % 4);
  return Buffer.concat([uint(2, 4 + body.length), uint(2, type), body, padding]);
}

export interface MessageFields {
  readonly type: number;
  readonly flags?: number;
  readonly sequence: number;
  readonly portId?: number;
}

export function message(fields: MessageFields, ...payload: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(payload);
  const padding = Buffer.alloc((4 - (body.length % 4)) % 4);
  return Buffer.concat([
    uint(4, 16 + body.length),
    uint(2, fields.type),
    uint(2, fields.flags ?? 0),
    uint(4, fields.sequence),
    uint(4, fields.portId ?? PORT_ID),
    body,
    padding,
  ]);
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}

export interface AckFields {
  readonly errno?: number;
  readonly tlvs?: readonly Uint8Array[];
  /** True: NLM_F_CAPPED and no repetition; false: the request is repeated when errno is not 0. */
  readonly capped?: boolean;
  readonly sequence?: number;
}

export function sequenceOf(request: Uint8Array): number {
  return Buffer.from(request).readUInt32LE(8);
}

/** The kernel's NLMSG_ERROR to a request, as netlink_ack builds it. */
export function ack(request: Uint8Array, fields: AckFields = {}): Buffer {
  const { errno = 0, tlvs = [], capped = true } = fields;
  const repeats = errno !== 0 && !capped;
  const flags = (repeats ? 0 : 0x100) | (tlvs.length > 0 ? 0x200 : 0);
  const repeated = Buffer.from(request).subarray(0, repeats ? request.length : 16);
  const sequence = fields.sequence ?? sequenceOf(request);
  return message({ type: 2, flags, sequence }, int32(-errno), repeated, ...tlvs);
}

export function done(request: Uint8Array, errno = 0, flags = 0): Buffer {
  return message({ type: 3, flags: 2 | flags, sequence: sequenceOf(request) }, int32(-errno));
}

export function generic(
  fields: MessageFields,
  command: number,
  ...attributes: readonly Uint8Array[]
): Buffer {
  return message(fields, Buffer.from([command, 1, 0, 0]), ...attributes);
}

export function familyAttributes(name: string, id: number, groups: Readonly<Record<string, number>>): Buffer {
  const items = Object.entries(groups).map(([groupName, groupId], position) =>
    attribute(position + 1, attribute(2, uint(4, groupId)), attribute(1, text(groupName))),
  );
  return Buffer.concat([
    attribute(2, text(name)),
    attribute(1, uint(2, id)),
    attribute(3, uint(4, 1)),
    attribute(4, uint(4, 0)),
    attribute(5, uint(4, 10)),
    ...(items.length === 0 ? [] : [attribute(7, ...items)]),
  ]);
}

/** What a request is: family id, command, sequence, flags and the name in CTRL_ATTR_FAMILY_NAME if there is one. */
export function readRequest(request: Uint8Array): {
  type: number;
  flags: number;
  sequence: number;
  command: number;
  familyName: string;
} {
  const bytes = Buffer.from(request);
  return {
    type: bytes.readUInt16LE(4),
    flags: bytes.readUInt16LE(6),
    sequence: bytes.readUInt32LE(8),
    command: bytes[16] ?? 0,
    familyName: bytes.length > 24 ? bytes.subarray(24, bytes.indexOf(0, 24)).toString() : "",
  };
}
