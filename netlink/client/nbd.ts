/**
 * NbdNetlink: the kernel's nbd driver, command by command, in the kernel's words. The public face of the nbd family.
 *
 * Called by kernel/nbd-control.ts and by programs that embed this folder. Arguments are checked before anything is
 * sent. It does not own the sockets it is given, and never retries a command that changes something.
 *
 * Facts (drivers/block/nbd.c, 6.1–7.2): all commands of all processes run one after the other under one kernel lock;
 * the thread id in /sys/block/nbdN/pid is that of a pool thread; a process exit waits for a command that is stuck.
 */

import * as C from "../constants.ts";
import { DecodeError } from "../errors.ts";
import {
  type Attribute,
  type DecodedAttribute,
  findAttribute,
  nested,
  readNested,
  readU8,
  readU32,
  string,
  u32,
  u64,
} from "../wire/attributes.ts";
import type { GenericMessage } from "../wire/family.ts";
import { NBD_SCHEMA, nameOfCommand } from "../wire/schema.ts";
import type { ResyncReason } from "./events.ts";
import { type GenericAnswer, GenericNetlink, type GenericNetlinkOptions } from "./generic.ts";
import { checkConnect, checkIndex, checkReconfigure } from "./nbd-arguments.ts";
import { wrapFailure } from "./request.ts";

/** Options of CONNECT. All but the index are always sent: an absent attribute keeps the device's previous value. */
export interface NbdConnectOptions {
  /** The N of /dev/nbdN; the kernel's choice (the lowest free one) when absent. */
  readonly index?: number | undefined;
  /** A multiple of the block size, or recent kernels fail reads of the tail. */
  readonly sizeBytes: number;
  /** A power of two from 512 to 65,536; kernels before 7 refuse more than the page size. */
  readonly blockSizeBytes: number;
  /** Request timeout in whole seconds. 0: with one socket, wait forever (the requeue timer is 30 s). */
  readonly timeoutSeconds: number;
  /** How long reads wait, in whole seconds, while every socket is dead. 0: fail at once. */
  readonly deadConnectionTimeoutSeconds: number;
  /** NBD_FLAG_* */
  readonly serverFlags: number;
  /** NBD_CFLAG_* */
  readonly clientFlags: number;
  /**
   * Connected TCP or unix stream sockets, open in this process; at least one. The kernel takes references of its own;
   * the caller keeps and closes the descriptors. After a failed CONNECT they are shut down and useless.
   */
  readonly sockets: readonly number[];
  /** Free text, 1 to 255 bytes in one line; every RECONFIGURE has to repeat it. */
  readonly backendIdentifier: string;
}

/** Options of RECONFIGURE. Absent settings stay as they are; if client flags are given, absent bits are cleared. */
export interface NbdReconfigureOptions {
  readonly index: number;
  /** Exactly the text given at CONNECT. */
  readonly backendIdentifier: string;
  /** One socket for each dead one. Success does not mean that it was taken: without a dead socket it is dropped. */
  readonly sockets?: readonly number[] | undefined;
  /** A change freezes the queue from Linux 6.12 on: never together with a socket while requests are outstanding. */
  readonly sizeBytes?: number | undefined;
  readonly blockSizeBytes?: number | undefined;
  readonly timeoutSeconds?: number | undefined;
  readonly deadConnectionTimeoutSeconds?: number | undefined;
  readonly clientFlags?: number | undefined;
}

/** A device as STATUS reports it. */
export interface NbdDeviceStatus {
  readonly index: number;
  /** The device has a configuration: it is connected, or merely open. This says nothing about live sockets. */
  readonly connected: boolean;
}

/** A socket of that device died; or events may have been missed, and the state has to be read anew. */
export type NbdEvent =
  | { readonly type: "link-dead"; readonly index: number }
  | { readonly type: "resync"; readonly reason: ResyncReason; readonly error?: Error | undefined };

/** Settings of a subscription to {@link NbdEvent}s. */
export interface NbdEventOptions {
  /** Wanted receive buffer, 4 MiB by default. */
  readonly receiveBufferBytes?: number | undefined;
  /** Whether the open subscription alone keeps the process running; true by default. */
  readonly keepsProcessAlive?: boolean | undefined;
}

/** A running subscription to {@link NbdEvent}s. */
export interface NbdEventSubscription {
  /** Stops at once; resolves when the descriptor is closed. */
  close(): Promise<void>;
}

/** Settings of an {@link NbdNetlink}: answer deadline, stuck and warning listeners, trace, transport. */
export type NbdNetlinkOptions = GenericNetlinkOptions;

function socketsAttribute(sockets: readonly number[]): Attribute {
  const items = sockets.map((fd) => nested(C.NBD_SOCK_ITEM, [u32(C.NBD_SOCK_FD, fd)]));
  return nested(C.NBD_ATTR_SOCKETS, items);
}

/** The attributes of a CONNECT. @throws TypeError, RangeError */
export function encodeConnect(options: NbdConnectOptions): Attribute[] {
  checkConnect(options);
  return [
    ...(options.index === undefined ? [] : [u32(C.NBD_ATTR_INDEX, options.index)]),
    u64(C.NBD_ATTR_SIZE_BYTES, options.sizeBytes),
    u64(C.NBD_ATTR_BLOCK_SIZE_BYTES, options.blockSizeBytes),
    u64(C.NBD_ATTR_TIMEOUT, options.timeoutSeconds),
    u64(C.NBD_ATTR_DEAD_CONN_TIMEOUT, options.deadConnectionTimeoutSeconds),
    u64(C.NBD_ATTR_SERVER_FLAGS, options.serverFlags),
    u64(C.NBD_ATTR_CLIENT_FLAGS, options.clientFlags),
    string(C.NBD_ATTR_BACKEND_IDENTIFIER, options.backendIdentifier),
    socketsAttribute(options.sockets),
  ];
}

/** The attributes of a RECONFIGURE. @throws TypeError, RangeError */
export function encodeReconfigure(options: NbdReconfigureOptions): Attribute[] {
  checkReconfigure(options);
  const attributes = [
    u32(C.NBD_ATTR_INDEX, options.index),
    string(C.NBD_ATTR_BACKEND_IDENTIFIER, options.backendIdentifier),
  ];
  const add = (type: number, value: number | undefined): void => {
    if (value !== undefined) attributes.push(u64(type, value));
  };
  add(C.NBD_ATTR_SIZE_BYTES, options.sizeBytes);
  add(C.NBD_ATTR_BLOCK_SIZE_BYTES, options.blockSizeBytes);
  add(C.NBD_ATTR_TIMEOUT, options.timeoutSeconds);
  add(C.NBD_ATTR_DEAD_CONN_TIMEOUT, options.deadConnectionTimeoutSeconds);
  add(C.NBD_ATTR_CLIENT_FLAGS, options.clientFlags);
  if (options.sockets !== undefined) attributes.push(socketsAttribute(options.sockets));
  return attributes;
}

function requiredField(
  attributes: readonly DecodedAttribute[],
  type: number,
  name: string,
): DecodedAttribute {
  const attribute = findAttribute(attributes, type);
  if (attribute === undefined) throw new DecodeError(`${name} is missing`, 0);
  return attribute;
}

/** The device list of a STATUS answer. @throws DecodeError */
export function decodeStatus(messages: readonly GenericMessage[]): NbdDeviceStatus[] {
  return messages.flatMap((message) => {
    const list = findAttribute(message.attributes, C.NBD_ATTR_DEVICE_LIST);
    if (list === undefined) return [];
    return readNested(list).map((item) => {
      const fields = readNested(item);
      return {
        index: readU32(requiredField(fields, C.NBD_DEVICE_INDEX, "NBD_DEVICE_INDEX")),
        connected: readU8(requiredField(fields, C.NBD_DEVICE_CONNECTED, "NBD_DEVICE_CONNECTED")) !== 0,
      };
    });
  });
}

/** The index in a CONNECT answer or a LINK_DEAD event. @throws DecodeError */
export function decodeIndex(message: GenericMessage | undefined): number {
  return readU32(requiredField(message?.attributes ?? [], C.NBD_ATTR_INDEX, "NBD_ATTR_INDEX"));
}

/** A client of the kernel's nbd driver. CONNECT, RECONFIGURE and DISCONNECT need CAP_SYS_ADMIN. Close it when done. */
export class NbdNetlink {
  readonly #netlink: GenericNetlink;

  /** @throws NetlinkError when no socket can be opened */
  constructor(options: NbdNetlinkOptions = {}) {
    this.#netlink = new GenericNetlink(options);
  }

  /**
   * Configures a device and returns its index.
   *
   * @throws TypeError, RangeError before anything happens
   * @throws NetlinkError EBUSY: that index is in use · EINVAL · EPERM · EBADF, ENOTSOCK · ERR_NETLINK_NO_FAMILY: no
   * driver
   */
  async connect(options: NbdConnectOptions): Promise<{ index: number }> {
    const purpose = options.index === undefined ? "connect an nbd device" : `connect nbd${options.index}`;
    const request = { purpose, deviceIndex: options.index, attributes: encodeConnect(options) };
    const answer = await this.#run(C.NBD_CMD_CONNECT, request);
    return { index: this.#decode(C.NBD_CMD_CONNECT, purpose, () => decodeIndex(answer.messages[0])) };
  }

  /**
   * Changes settings or hands over fresh sockets for dead ones. The kernel applies what comes before an error.
   *
   * @throws TypeError, RangeError before anything happens
   * @throws NetlinkError EINVAL: no such device, not connected, or the identifier differs · EPERM · EBADF, ENOTSOCK
   */
  async reconfigure(options: NbdReconfigureOptions): Promise<void> {
    const { index } = options;
    const attributes = encodeReconfigure(options);
    await this.#run(C.NBD_CMD_RECONFIGURE, {
      purpose: `reconfigure nbd${index}`,
      deviceIndex: index,
      attributes,
    });
  }

  /**
   * Ends a device's configuration: reads in flight fail. A device that is not connected is no error.
   *
   * @throws NetlinkError EINVAL: no such device · EPERM
   */
  async disconnect(index: number): Promise<void> {
    checkIndex(index);
    const attributes = [u32(C.NBD_ATTR_INDEX, index)];
    await this.#run(C.NBD_CMD_DISCONNECT, {
      purpose: `disconnect nbd${index}`,
      deviceIndex: index,
      attributes,
    });
  }

  /**
   * All devices, or the one of that index (an empty list when there is none). Needs no privilege.
   * @throws NetlinkError
   */
  async status(index?: number): Promise<NbdDeviceStatus[]> {
    if (index !== undefined) checkIndex(index);
    const purpose = index === undefined ? "ask for the nbd devices" : `ask for nbd${index}`;
    const attributes = index === undefined ? [] : [u32(C.NBD_ATTR_INDEX, index)];
    const answer = await this.#run(C.NBD_CMD_STATUS, { purpose, deviceIndex: index, attributes });
    return this.#decode(C.NBD_CMD_STATUS, purpose, () => decodeStatus(answer.messages));
  }

  /**
   * Listens for dead sockets. One event per socket; it may come late, twice or, after a `resync`, not at all. The
   * kernel sends them to the initial network namespace only. Needs no privilege.
   *
   * @throws NetlinkError ERR_NETLINK_NO_FAMILY: no driver
   */
  async linkDeadEvents(
    onEvent: (event: NbdEvent) => void,
    options: NbdEventOptions = {},
  ): Promise<NbdEventSubscription> {
    return this.#netlink.subscribe({
      ...options,
      schema: NBD_SCHEMA,
      groupName: C.NBD_GENL_MCAST_GROUP_NAME,
      onMessage: (message) => {
        if (message.command !== C.NBD_CMD_LINK_DEAD) return;
        onEvent(linkDeadEvent(message));
      },
      onResync: (reason, error) => onEvent({ type: "resync", reason, error }),
    });
  }

  /** Ends subscriptions and rejects pending requests. Resolves when every descriptor is closed. */
  close(): Promise<void> {
    return this.#netlink.close();
  }

  #run(
    command: number,
    request: { purpose: string; deviceIndex: number | undefined; attributes: readonly Attribute[] },
  ): Promise<GenericAnswer> {
    return this.#netlink.request({ ...request, schema: NBD_SCHEMA, command, version: C.NBD_GENL_VERSION });
  }

  #decode<T>(command: number, purpose: string, decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      throw wrapFailure({ purpose, command: nameOfCommand(NBD_SCHEMA, command), schema: NBD_SCHEMA }, error);
    }
  }
}

/** An event without an index still means that a socket died: the listener has to check all devices. */
function linkDeadEvent(message: GenericMessage): NbdEvent {
  try {
    return { type: "link-dead", index: decodeIndex(message) };
  } catch (error) {
    return {
      type: "resync",
      reason: "undecodable",
      error: error instanceof Error ? error : new Error(String(error)),
    };
  }
}
