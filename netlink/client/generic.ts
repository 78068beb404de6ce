/**
 * GenericNetlink: families by name, requests to them, subscriptions to their multicast groups.
 *
 * Used by nbd.ts and usable for any family without a header of its own. Family ids are remembered and looked up again
 * when a request shows that the module was reloaded.
 */
import { constants } from "node:os";
import * as C from "../constants.ts";
import { NetlinkError } from "../errors.ts";
import { openKernelTransport } from "../transport/kernel-transport.ts";
import type { OpenTransport } from "../transport/transport.ts";
import { type Attribute, encodeAttributes, string } from "../wire/attributes.ts";
import {
  decodeFamily,
  decodeGenericMessage,
  type GenericFamily,
  type GenericMessage,
} from "../wire/family.ts";
import { encodeGenericPayload } from "../wire/message.ts";
import { CONTROLLER_SCHEMA, type FamilySchema, nameOfCommand } from "../wire/schema.ts";
import { GroupSubscription, type SubscriptionOptions } from "./events.ts";
import { type RequestLabel, requestError, wrapFailure } from "./request.ts";
import { NetlinkSocket, type NetlinkSocketOptions, openTransportOrThrow } from "./socket.ts";

/** A request to a family. */
export interface GenericRequest {
  /** Describes the family, which is looked up by its name. */
  readonly schema: FamilySchema;
  readonly command: number;
  /** The family's version to announce; 1 by default. */
  readonly version?: number | undefined;
  readonly attributes: readonly Attribute[];
  /** Ask for all objects (NLM_F_DUMP). */
  readonly dump?: boolean | undefined;
  /** What is being done, to follow "cannot" in an error; "run COMMAND" by default. */
  readonly purpose?: string | undefined;
  readonly deviceIndex?: number | undefined;
}

/** A successful answer. */
export interface GenericAnswer {
  readonly messages: readonly GenericMessage[];
  /** The kernel's text on success, if it sent one. */
  readonly warning?: string;
}

/** Settings of a {@link GenericNetlink}. */
export interface GenericNetlinkOptions extends Omit<NetlinkSocketOptions, "transport"> {
  /** How sockets are opened: the kernel by default. */
  readonly openTransport?: OpenTransport | undefined;
}

/** How often an interrupted dump is started again before it fails with ERR_NETLINK_DUMP_INTERRUPTED. */
const DUMP_ATTEMPTS = 5;

/** A client of generic netlink families. Close it when done. */
export class GenericNetlink {
  readonly #socket: NetlinkSocket;
  readonly #options: GenericNetlinkOptions;
  readonly #openTransport: OpenTransport;
  readonly #families = new Map<string, GenericFamily>();
  readonly #subscriptions = new Set<GroupSubscription>();
  #isClosed = false;

  /** @throws NetlinkError when no socket can be opened */
  constructor(options: GenericNetlinkOptions = {}) {
    this.#options = options;
    this.#openTransport = options.openTransport ?? openKernelTransport;
    this.#socket = new NetlinkSocket({
      ...options,
      transport: openTransportOrThrow(() => this.#openTransport({})),
    });
  }

  /**
   * The family of that name, remembered from an earlier look-up unless `fresh`.
   * @throws NetlinkError ERR_NETLINK_NO_FAMILY
   */
  async family(name: string, options: { readonly fresh?: boolean } = {}): Promise<GenericFamily> {
    const known = this.#families.get(name);
    if (known !== undefined && options.fresh !== true) return known;
    const label = { ...controllerLabel(`find the generic netlink family '${name}'`), subjectFamily: name };
    this.#families.delete(name);
    const { messages } = await this.#ask(label, {
      familyId: C.GENL_ID_CTRL,
      version: 2,
      command: C.CTRL_CMD_GETFAMILY,
      attributes: [string(C.CTRL_ATTR_FAMILY_NAME, name)],
    });
    const family = decodeWith(label, () => decodeFamily(messages[0]?.attributes ?? []));
    this.#families.set(name, family);
    return family;
  }

  /**
   * Every registered family, in the kernel's order. A list that changed meanwhile is requested again.
   * @throws NetlinkError
   */
  async families(): Promise<GenericFamily[]> {
    const label = controllerLabel("list the generic netlink families");
    const { messages } = await this.#ask(label, {
      familyId: C.GENL_ID_CTRL,
      version: 2,
      command: C.CTRL_CMD_GETFAMILY,
      attributes: [],
      dump: true,
    });
    return decodeWith(label, () => messages.map((message) => decodeFamily(message.attributes)));
  }

  /**
   * Sends a request to a family and resolves with its answer. If the kernel does not know the id (any more), the
   * family is looked up again, and the request is sent once more if its id has changed: it was not carried out
   * before.
   *
   * @throws NetlinkError
   */
  async request(request: GenericRequest): Promise<GenericAnswer> {
    const command = nameOfCommand(request.schema, request.command);
    const { schema, deviceIndex, purpose = `run ${command}` } = request;
    const label: RequestLabel = { schema, deviceIndex, purpose, command };
    const family = await this.family(schema.familyName);
    const version = request.version ?? 1;
    const { attributes, dump } = request;
    const what = { version, command: request.command, attributes, dump };
    try {
      return await this.#ask(label, { ...what, familyId: family.id });
    } catch (error) {
      if (!isStaleId(error)) throw error;
      const current = await this.family(schema.familyName, { fresh: true });
      if (current.id === family.id) throw error;
      return this.#ask(label, { ...what, familyId: current.id });
    }
  }

  /**
   * Listens to a multicast group on a socket of its own, until the subscription or this client is closed.
   *
   * @throws NetlinkError when the family or group does not exist or cannot be joined
   */
  async subscribe(options: SubscriptionOptions): Promise<GroupSubscription> {
    if (this.#isClosed) {
      const label = { purpose: `listen to ${options.groupName}`, command: "SUBSCRIBE" };
      throw requestError(label, {
        code: "ERR_NETLINK_CLOSED",
        origin: "closed",
        reason: "the client was closed",
      });
    }
    const subscription = new GroupSubscription(options, {
      openTransport: this.#openTransport,
      trace: this.#options.trace,
      lookUp: (name) => this.family(name, { fresh: true }),
      onFamilyChange: (name) => this.#families.delete(name),
      onClose: () => this.#subscriptions.delete(subscription),
    });
    this.#subscriptions.add(subscription);
    await subscription.start();
    return subscription;
  }

  /** Ends every subscription and request. Resolves when the descriptors are closed, see {@link NetlinkSocket.close}. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all([
      ...[...this.#subscriptions].map((subscription) => subscription.close()),
      this.#socket.close(),
    ]);
  }

  async #ask(label: RequestLabel, message: OutgoingMessage): Promise<GenericAnswer> {
    const body = encodeAttributes(message.attributes);
    const payload = encodeGenericPayload({ command: message.command, version: message.version, body });
    const { dump } = message;
    for (let attempt = 1; ; attempt += 1) {
      try {
        const answer = await this.#socket.request({ type: message.familyId, payload, dump, label });
        const messages = decodeWith(label, () =>
          answer.messages.map((each) => decodeGenericMessage(each.payload)),
        );
        return answer.warning === undefined ? { messages } : { messages, warning: answer.warning };
      } catch (error) {
        const isInterrupted = error instanceof NetlinkError && error.code === "ERR_NETLINK_DUMP_INTERRUPTED";
        if (!isInterrupted || attempt === DUMP_ATTEMPTS) throw error;
      }
    }
  }
}

interface OutgoingMessage {
  readonly familyId: number;
  readonly version: number;
  readonly command: number;
  readonly attributes: readonly Attribute[];
  readonly dump?: boolean | undefined;
}

function controllerLabel(purpose: string): RequestLabel {
  return { purpose, command: "GETFAMILY", schema: CONTROLLER_SCHEMA };
}

function decodeWith<T>(label: RequestLabel, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    throw wrapFailure(label, error);
  }
}

/**
 * genl_rcv_msg answers ENOENT for an id that no family has. EOPNOTSUPP comes from another family that got the id
 * meanwhile (ids are assigned cyclically, so that is rare). Either may also be a real answer, hence the look-up.
 */
function isStaleId(error: unknown): boolean {
  if (!(error instanceof NetlinkError) || error.origin !== "ack") return false;
  return error.errno === constants.errno.ENOENT || error.errno === constants.errno.EOPNOTSUPP;
}
