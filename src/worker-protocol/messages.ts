/**
 * What a manager and its workers say to each other over the control channel. Types only.
 *
 * Link numbers are given by the manager and never used twice in its life. Counters need no message: they are in the
 * journals. An upgraded manager speaks with workers of the version before for as long as it takes to replace them.
 */

import type { Exactness } from "../source/exactness.ts";
import type { JsonValue, SourceSpec } from "../source/source-spec.ts";
import type { LinkCounters, LinkEnd } from "./link-end.ts";

/** Where a worker finds its end of the control channel. */
export const CONTROL_FD = 3;
/** Where it finds a listening socket for the manager after this one. */
export const REUNION_FD = 4;
/** The argument of a worker that an attach waits for. */
export const AWAITED = "awaited";

/** What a worker knows of a link, and tells a manager that does not. */
export interface ServedLinkDescription {
  readonly link: number;
  /** The device's identifier, and its slot: the worker makes nothing of them. */
  readonly device: string;
  readonly slot: number;
  readonly source: SourceSpec;
  readonly blockSizeBytes: number;
  readonly copyOnly: boolean;
  /** See JournaledReplies. */
  readonly counted: boolean;
  /** The kernel has its socket for certain. Until this is known, a next manager trusts only a link that has had a request. */
  readonly confirmed: boolean;
  /**
   * Whether a lease's descriptor comes behind the others: no, one that was just taken, or one under which the file
   * has been seen to be as it was attached. Those of a former version do not say it.
   */
  readonly lease?: "none" | "fresh" | "vouched";
}

/**
 * The descriptors that go with a link, in this order: its server end, the image (or source module), its journal, the
 * reading and the writing end of its pipe, and its kernel end, which the worker only keeps for a later manager.
 * Behind them, where there is one, a description of the image with a read lease on it.
 */
export const LINK_FDS = 6;

/**
 * Room for a megabyte's reply in a link's socket, or whatever the system allows. With the usual 208 KiB each large
 * reply waits for its reader several times: 1 MiB reads ran at a third of the rate for three times the CPU time. The
 * manager asks for a device's links, because workers have no rights to exceed the system's limit.
 */
export const SEND_BUFFER_BYTES: number = 1024 * 1024;

/** How many descriptors come with this description. */
export const linkFds = ({ lease = "none" }: Pick<ServedLinkDescription, "lease">): number =>
  lease === "none" ? LINK_FDS : LINK_FDS + 1;

/** What a source module makes. */
export interface InspectedSource {
  readonly sizeBytes: number;
  readonly identity: string | null;
}

/** Bytes of a source's beginning in one message. */
export const HEAD_PIECE_BYTES: number = 24 * 1024;

export type ToWorker =
  /** Serve a link, or go on with it: what its journal says is done first. Comes with LINK_FDS descriptors. */
  | ({ readonly type: "serve" } & ServedLinkDescription)
  /** Give a link up: close its socket without answering what is left. */
  | { readonly type: "close"; readonly link: number }
  /** Stop serving a link, which lives on: another worker goes on with its journal. */
  | { readonly type: "release"; readonly link: number }
  /** The kernel has taken the link's socket: remember it for a later manager. */
  | { readonly type: "confirm"; readonly link: number }
  /** Tell how exact each link's answers are, now and whenever that changes. To workers that take leases only, as the next. */
  | { readonly type: "report" }
  /** A lease for a link that has none; comes with the descriptor. */
  | { readonly type: "lease"; readonly link: number }
  /** Load a source module and say what it makes: asked of a worker of its own, which serves nothing. */
  | {
      readonly type: "inspect";
      readonly path: string;
      readonly options: JsonValue;
      readonly headBytes: number;
    }
  /** Say that the event loop turns. */
  | { readonly type: "ping" }
  /** Leave as soon as no link is left. */
  | { readonly type: "stop" };

export type FromWorker =
  /** `leases`: it has a handler for their signal. Those of a former version have none, and would die. */
  | { readonly type: "ready"; readonly leases?: boolean }
  /** To a manager that has come after the one before: how many `held` will follow. */
  | { readonly type: "reunion"; readonly pid: number; readonly links: number }
  /** One link that this worker serves. Comes with LINK_FDS descriptors. */
  | ({ readonly type: "held" } & ServedLinkDescription)
  | { readonly type: "pong" }
  /** A piece of the first bytes that were asked for, in base64; in order, before «inspected». */
  | { readonly type: "head"; readonly piece: string }
  | ({ readonly type: "inspected" } & InspectedSource)
  | { readonly type: "uninspectable"; readonly message: string }
  /** What was unanswered is answered, or on its way. */
  | { readonly type: "serving"; readonly link: number }
  | { readonly type: "refused"; readonly link: number; readonly message: string }
  | { readonly type: "released"; readonly link: number }
  /** How exact its answers are from now on. To managers that have asked for it (`report`), as the next. */
  | ({ readonly type: "exactness"; readonly link: number } & Exactness)
  /** Nothing that was sent under its lease is unread any more: let go of it. */
  | { readonly type: "lease-over"; readonly link: number }
  | { readonly type: "first-request"; readonly link: number }
  | { readonly type: "read-error"; readonly link: number; readonly message: string; readonly count: number }
  | { readonly type: "ended"; readonly link: number; readonly end: LinkEnd; readonly counters: LinkCounters };
