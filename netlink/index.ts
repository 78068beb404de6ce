/// <reference types="node" preserve="true" />
/**
 * The public face of netlink/, published as `erofs-nbd/netlink`: clients, errors, codec, constants, the test seam.
 *
 * The only file of this folder that other code imports. It only re-exports.
 *
 * @example
 * import { NbdNetlink } from "erofs-nbd/netlink";
 * const nbd = new NbdNetlink();
 * console.log(await nbd.status());
 * await nbd.close();
 */

export type { GroupSubscription, ResyncReason, SubscriptionOptions } from "./client/events.ts";
export {
  type GenericAnswer,
  GenericNetlink,
  type GenericNetlinkOptions,
  type GenericRequest,
} from "./client/generic.ts";
export { HINTS, type Hint, hintFor } from "./client/hints.ts";
export {
  decodeIndex,
  decodeStatus,
  encodeConnect,
  encodeReconfigure,
  type NbdConnectOptions,
  type NbdDeviceStatus,
  type NbdEvent,
  type NbdEventOptions,
  type NbdEventSubscription,
  NbdNetlink,
  type NbdNetlinkOptions,
  type NbdReconfigureOptions,
} from "./client/nbd.ts";
export type { RequestLabel } from "./client/request.ts";
export {
  type NetlinkAnswer,
  type NetlinkRequest,
  NetlinkSocket,
  type NetlinkSocketOptions,
  type StuckReport,
} from "./client/socket.ts";
export * from "./constants.ts";
export {
  DecodeError,
  errnoName,
  NetlinkError,
  type NetlinkErrorCode,
  type NetlinkErrorDetails,
  type NetlinkErrorOrigin,
  SyscallError,
} from "./errors.ts";
export {
  createFakeTransport,
  type FakeHandler,
  type FakeKernel,
  type FakeTransport,
} from "./transport/fake-transport.ts";
export { openKernelTransport } from "./transport/kernel-transport.ts";
export type {
  NetlinkTransport,
  OpenTransport,
  ReadWatch,
  ReceivedDatagram,
  TransportOptions,
} from "./transport/transport.ts";
export { decodeVerdict, type Verdict } from "./wire/ack.ts";
export {
  type Attribute,
  align4,
  type DecodedAttribute,
  decodeAttributes,
  encodeAttributes,
  findAttribute,
  nested,
  readNested,
  readString,
  readU8,
  readU16,
  readU32,
  readU64,
  string,
  u8,
  u16,
  u32,
  u64,
} from "./wire/attributes.ts";
export {
  decodeFamily,
  decodeGenericMessage,
  type FamilyGroup,
  type GenericFamily,
  type GenericMessage,
} from "./wire/family.ts";
export {
  decodeGenericPayload,
  decodeMessages,
  encodeGenericPayload,
  encodeMessage,
  type GenericPayload,
  type NetlinkMessage,
} from "./wire/message.ts";
export {
  type AttributeKind,
  type AttributeShape,
  type AttributeShapes,
  CONTROLLER_SCHEMA,
  type FamilySchema,
  NBD_SCHEMA,
  nameOfCommand,
} from "./wire/schema.ts";
export { formatMessage, type TraceSink, traceSinkFromEnvironment } from "./wire/trace.ts";
