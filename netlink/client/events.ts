/**
 * A subscription to one multicast group of a generic netlink family, on a socket of its own.
 *
 * Made by generic.ts. Multicast is not reliable: when the kernel drops messages, or the family is unregistered and
 * registered again, `onResync` is called, so that the listener reads the state again, and the subscription continues.
 * The socket also listens to the controller's `notify` group, which announces families by name: when it announces a
 * reloaded module, the module's group, which has a new number, is joined again. No request is sent on this socket.
 */
import { constants } from "node:os";
import * as C from "../constants.ts";
import { SyscallError } from "../errors.ts";
import type { NetlinkTransport, OpenTransport, ReadWatch, ReceivedDatagram } from "../transport/transport.ts";
import {
  decodeFamily,
  decodeGenericMessage,
  type GenericFamily,
  type GenericMessage,
} from "../wire/family.ts";
import { decodeMessages, type NetlinkMessage } from "../wire/message.ts";
import { CONTROLLER_SCHEMA, type FamilySchema } from "../wire/schema.ts";
import { type TraceSink, traceDatagram, traceSinkFromEnvironment } from "../wire/trace.ts";
import { type RequestLabel, requestError, wrapFailure } from "./request.ts";
import { openTransportOrThrow } from "./socket.ts";

/**
 * Why the listener's view of the state may be out of date.
 *
 * - `messages-lost`: the receive buffer overflowed (ENOBUFS) or a message did not fit
 * - `family-removed`: the module was unloaded; events stop until it is loaded again
 * - `family-reloaded`: the group was joined again; events in between are lost
 * - `join-failed`: the group could not be joined again; no events until the next reload
 * - `undecodable`: a message could not be decoded
 * - `ended`: receiving failed for good; the subscription has closed itself
 */
export type ResyncReason =
  | "messages-lost"
  | "family-removed"
  | "family-reloaded"
  | "join-failed"
  | "undecodable"
  | "ended";

/** What a subscription listens to, and its listeners. Both run on the event loop, in order of arrival. */
export interface SubscriptionOptions {
  readonly schema: FamilySchema;
  readonly groupName: string;
  readonly onMessage: (message: GenericMessage) => void;
  /** `error` is set for `join-failed`, `undecodable` and `ended`. */
  readonly onResync: (reason: ResyncReason, error?: Error) => void;
  /** Wanted receive buffer, 4 MiB by default; forced where CAP_NET_ADMIN allows it. */
  readonly receiveBufferBytes?: number | undefined;
  /** Whether the open subscription alone keeps the process running; true by default. */
  readonly keepsProcessAlive?: boolean | undefined;
}

/** What the client passes to a subscription. */
export interface SubscriptionContext {
  readonly openTransport: OpenTransport;
  readonly trace: TraceSink | undefined;
  readonly lookUp: (familyName: string) => Promise<GenericFamily>;
  readonly onFamilyChange: (familyName: string) => void;
  readonly onClose: () => void;
}

const DEFAULT_RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;
/** Number of datagrams handled per turn of the event loop; the watch fires again for the rest. */
const BATCH = 64;

/** A running subscription; get one from GenericNetlink.subscribe. */
export class GroupSubscription {
  readonly #options: SubscriptionOptions;
  readonly #context: SubscriptionContext;
  readonly #trace: TraceSink | undefined;
  readonly #label: RequestLabel;
  readonly #transport: NetlinkTransport;
  #familyId = -1;
  #watch: ReadWatch | undefined;
  /** Joins under way: the socket must outlive them. */
  #joining: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;

  /** @internal */
  constructor(options: SubscriptionOptions, context: SubscriptionContext) {
    this.#options = options;
    this.#context = context;
    this.#trace = context.trace ?? traceSinkFromEnvironment();
    const purpose = `listen to ${options.schema.familyName} events`;
    this.#label = { purpose, command: "SUBSCRIBE", schema: options.schema };
    const receiveBufferBytes = options.receiveBufferBytes ?? DEFAULT_RECEIVE_BUFFER_BYTES;
    this.#transport = openTransportOrThrow(() => context.openTransport({ receiveBufferBytes }));
  }

  /** The receive buffer that was granted, in the kernel's own accounting (twice the size asked for). */
  get receiveBufferBytes(): number {
    return this.#transport.receiveBufferBytes;
  }

  /**
   * Joins both groups; events arrive from the moment this resolves. The controller's group comes first, so that a
   * reload between the look-up and the join is noticed too.
   * @internal
   */
  async start(): Promise<void> {
    try {
      const controller = await this.#context.lookUp(CONTROLLER_SCHEMA.familyName);
      await this.#joinGroup(controller, C.CTRL_NOTIFY_GROUP_NAME);
      const family = await this.#context.lookUp(this.#options.schema.familyName);
      this.#familyId = family.id;
      await this.#joinGroup(family, this.#options.groupName);
    } catch (error) {
      const failure = wrapFailure(this.#label, error);
      await this.close();
      throw failure;
    }
    if (this.#closed !== undefined) return;
    this.#watch = this.#transport.watch(() => this.#drain(), this.#options.keepsProcessAlive ?? true);
  }

  /** No listener is called from here on. Resolves when the descriptor is closed. */
  close(): Promise<void> {
    if (this.#closed === undefined) {
      this.#watch?.stop();
      this.#closed = this.#joining.then(() => this.#transport.close());
      this.#context.onClose();
    }
    return this.#closed;
  }

  #joinGroup(family: GenericFamily, groupName: string): Promise<void> {
    const group = family.groups.find((each) => each.name === groupName);
    if (group === undefined) {
      const reason = `the family ${family.name} has no group '${groupName}'`;
      return Promise.reject(
        requestError(this.#label, { code: "ERR_NETLINK_NO_FAMILY", origin: "ack", reason }),
      );
    }
    const joined = this.#transport.joinGroup(group.id);
    const settled = joined.catch(() => undefined);
    this.#joining = this.#joining.then(() => settled);
    return joined;
  }

  #drain(): void {
    for (let count = 0; count < BATCH && this.#closed === undefined; count += 1) {
      let datagram: ReceivedDatagram | undefined;
      try {
        datagram = this.#transport.receive();
      } catch (error) {
        if (!this.#goOnAfter(error)) return;
        continue;
      }
      if (datagram === undefined) return;
      if (datagram.senderPortId !== 0) continue;
      if (datagram.truncated) this.#resync("messages-lost");
      else this.#accept(datagram.bytes);
    }
  }

  /**
   * ENOBUFS is reported once per overflow, and queued messages can still be read. Any other error ends the
   * subscription.
   */
  #goOnAfter(error: unknown): boolean {
    const errno = error instanceof SyscallError ? error.errno : undefined;
    if (errno === constants.errno.EINTR) return true;
    if (errno === constants.errno.ENOBUFS) {
      this.#resync("messages-lost");
      return true;
    }
    this.#resync("ended", wrapFailure(this.#label, error));
    // The listener has the cause already; a failing close adds nothing.
    this.close().catch(() => undefined);
    return false;
  }

  #accept(datagram: Uint8Array): void {
    traceDatagram(this.#trace, "*", datagram, this.#options.schema);
    let messages: readonly NetlinkMessage[];
    try {
      messages = decodeMessages(datagram);
    } catch (error) {
      this.#resync("undecodable", wrapFailure(this.#label, error));
      return;
    }
    for (const message of messages) {
      if (this.#closed !== undefined) return;
      this.#acceptMessage(message);
    }
  }

  #acceptMessage(message: NetlinkMessage): void {
    let generic: GenericMessage;
    let family: GenericFamily | undefined;
    try {
      if (message.type !== C.GENL_ID_CTRL && message.type !== this.#familyId) return;
      generic = decodeGenericMessage(message.payload);
      if (message.type === C.GENL_ID_CTRL) family = decodeFamily(generic.attributes);
    } catch (error) {
      this.#resync("undecodable", wrapFailure(this.#label, error));
      return;
    }
    if (family === undefined) this.#tell(() => this.#options.onMessage(generic));
    else if (family.name === this.#options.schema.familyName) this.#familyChanged(generic.command, family);
  }

  #familyChanged(command: number, family: GenericFamily): void {
    if (command === C.CTRL_CMD_DELFAMILY) {
      this.#context.onFamilyChange(family.name);
      this.#resync("family-removed");
    } else if (command === C.CTRL_CMD_NEWFAMILY) {
      this.#context.onFamilyChange(family.name);
      this.#familyId = family.id;
      this.#joinGroup(family, this.#options.groupName).then(
        () => this.#resync("family-reloaded"),
        (error: unknown) => this.#resync("join-failed", wrapFailure(this.#label, error)),
      );
    }
  }

  #resync(reason: ResyncReason, error?: Error): void {
    this.#tell(() => this.#options.onResync(reason, error));
  }

  /** Rethrows a listener's exception asynchronously, so that it cannot stop the reading. */
  #tell(call: () => void): void {
    if (this.#closed !== undefined) return;
    try {
      call();
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}
