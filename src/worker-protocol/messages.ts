/**
 * The messages between a manager and its workers on the control channel, and what goes with them. No run-time code but
 * a few constants, so that workers load nothing for it; from-worker.ts has the schemas that the manager checks with.
 *
 * The manager assigns link numbers, and uses none of them twice in its life. Counters need no messages: they are in the
 * journals. While it is being upgraded, a manager talks to workers of the version before, so messages stay compatible.
 */

import type { Exactness } from "../source/exactness.ts";
import type { JsonValue, SourceSpec } from "../source/source-spec.ts";
import type { LinkCounters, LinkEnd } from "./link-end.ts";

/** The worker's end of the control channel. */
export const CONTROL_FD = 3;
/** The worker's listening socket, on which later managers connect. */
export const REUNION_FD = 4;
/** The argument of a worker that an attach waits for. */
export const AWAITED = "awaited";

/** What a worker receives about a link, and reports to the next manager. */
export interface ServedLinkDescription {
  readonly link: number;
  /** The device's identifier, and the link's index, by its name in the protocol. The worker only stores them. */
  readonly device: string;
  readonly slot: number;
  readonly source: SourceSpec;
  readonly blockSizeBytes: number;
  readonly copyOnly: boolean;
  /** See JournaledReplies. */
  readonly counted: boolean;
  /** The kernel certainly has the socket. Otherwise a later manager trusts the link only after a request. */
  readonly confirmed: boolean;
  /**
   * Whether a lease's descriptor follows the others: none, one of a lease that was just taken, or one of a lease under
   * which the file was verified to be as attached. Former versions do not send it.
   */
  readonly lease?: "none" | "fresh" | "vouched" | undefined;
}

/** What the next manager uses of a reported description. Workers of former versions do not know `confirmed`. */
export type ReportedLink = Pick<
  ServedLinkDescription,
  "link" | "device" | "slot" | "copyOnly" | "counted" | "lease"
> & { readonly confirmed?: boolean | undefined };

/**
 * How many descriptors go with a link, in this order: its server end, the image (or source module), its journal, the
 * read and the write end of its pipe, and its kernel end, which the worker only keeps for a later manager. If the link
 * has a lease, a description of the image with the lease on it follows.
 */
export const LINK_FDS = 6;

/**
 * Send buffer of a link's socket, as far as the system permits: room for a reply of 1 MiB. With the default of 208 KiB
 * a large reply waits for its reader several times; reads of 1 MiB then ran at a third of the rate, for three times the
 * CPU time. The manager sets it for the links of devices, because workers may not exceed the system's limit.
 */
export const SEND_BUFFER_BYTES: number = 1024 * 1024;

/** How many descriptors go with this description. */
export const linkFds = ({ lease = "none" }: Pick<ServedLinkDescription, "lease">): number =>
  lease === "none" ? LINK_FDS : LINK_FDS + 1;

/** What a source module provides. */
export interface InspectedSource {
  readonly sizeBytes: number;
  readonly identity: string | null;
}

/** Bytes of a source's head in one `head` message. */
export const HEAD_PIECE_BYTES: number = 24 * 1024;

export type ToWorker =
  /**
   * Serve a link. Requests that its journal has unanswered come first. Comes with LINK_FDS descriptors. With `offer`
   * the worker takes the offer in the journal first (journal/offer.ts), and without an answer drops the message if that
   * was withdrawn.
   */
  | ({ readonly type: "serve"; readonly offer?: number | undefined } & ServedLinkDescription)
  /** Close a link and its socket, without answering what is left. */
  | { readonly type: "close"; readonly link: number }
  /** Stop serving a link. Another worker goes on with its journal. */
  | { readonly type: "release"; readonly link: number }
  /** The kernel has the link's socket: store this for a later manager. */
  | { readonly type: "confirm"; readonly link: number }
  /** Send `exactness` of each link, now and when it changes. Like `lease`, only for workers that take leases. */
  | { readonly type: "report" }
  /** A lease for a link that has none. Comes with its descriptor. */
  | { readonly type: "lease"; readonly link: number }
  /** Load a source module and report what it provides. For a worker that serves no links. */
  | {
      readonly type: "inspect";
      readonly path: string;
      readonly options: JsonValue;
      readonly headBytes: number;
    }
  /** Answer with `pong`, which proves that the event loop runs. */
  | { readonly type: "ping" }
  /** Exit when no link is left. */
  | { readonly type: "stop" };

export type FromWorker =
  /**
   * `leases`: it handles the signal that comes with leases. Workers of former versions would die of it. `offers`: it
   * takes offers before it serves a link.
   */
  | { readonly type: "ready"; readonly leases?: boolean | undefined; readonly offers?: boolean | undefined }
  /** The greeting to a later manager that reattaches the worker: so many `held` follow. "reunion" is its wire name. */
  | { readonly type: "reunion"; readonly pid: number; readonly links: number }
  /** A link that this worker serves: its whole description. Comes with LINK_FDS descriptors. */
  | ({ readonly type: "held" } & ReportedLink)
  | { readonly type: "pong" }
  /** The next piece of the requested head, in base64. All of them come before `inspected`. */
  | { readonly type: "head"; readonly piece: string }
  | ({ readonly type: "inspected" } & InspectedSource)
  | { readonly type: "uninspectable"; readonly message: string }
  /** It serves the link; requests that were unanswered are answered or being read. */
  | { readonly type: "serving"; readonly link: number }
  | { readonly type: "refused"; readonly link: number; readonly message: string }
  | { readonly type: "released"; readonly link: number }
  /** How exact its answers are from now on. Like `lease-over`, only for managers that have sent `report`. */
  | ({ readonly type: "exactness"; readonly link: number } & Exactness)
  /** All that was sent under the lease has been read: close the lease. */
  | { readonly type: "lease-over"; readonly link: number }
  | { readonly type: "first-request"; readonly link: number }
  | { readonly type: "read-error"; readonly link: number; readonly message: string; readonly count: number }
  | { readonly type: "ended"; readonly link: number; readonly end: LinkEnd; readonly counters: LinkCounters };
