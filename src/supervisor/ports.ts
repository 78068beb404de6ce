/**
 * What a supervisor needs from the world, as interfaces: the kernel's control family, what the kernel shows of a
 * device, and somebody who serves links.
 *
 * The manager passes NbdNetlink and its worker pool; tests pass what they like. Types only.
 */
import type { NbdControl } from "../kernel/nbd-control.ts";
import type { Exactness } from "../source/exactness.ts";
import type { SourceSpec } from "../source/source-spec.ts";
import type { LinkCounters, LinkEnd } from "../worker-protocol/link-end.ts";

/** What a supervisor uses of the connection to the nbd family. */
export type NbdCommands = Pick<NbdControl, "connect" | "reconfigure" | "disconnect" | "isBusyWith">;

/** What is served on a device's links. */
export interface Image {
  /** Replaced by one with another modification time where that alone has changed under a lease; see FileSource. */
  spec: SourceSpec;
  /** Opened once, by whoever attached; the owner of the device closes it. */
  readonly fd: number;
  readonly blockSizeBytes: number;
}

export interface LinkRequest {
  readonly image: Image;
  readonly copyOnly: boolean;
  /** Rather wait a moment for an idle worker than put a device's links on one: they would all die with it. */
  readonly spread: boolean;
  /** The device's identifier and the slot: what a later manager knows the link by. */
  readonly device: string;
  readonly slot: number;
  /** Whether the kernel's count of reads in flight is of this link alone; see JournaledReplies. */
  readonly counted: boolean;
  /** That count; undefined while it cannot be trusted. Asked at a takeover only. */
  readonly inFlight: () => number | undefined;
  /** How long a worker may leave the link's requests unanswered. */
  readonly hangTimeoutMs: number;
}

export interface LinkObserver {
  /** The first request has arrived on this link. */
  firstRequest(): void;
  /** Reads were answered with errors, `count` of them since the last call. */
  readErrors(message: string, count: number): void;
  /**
   * Its worker is gone and the socket is still up: ask for `takeOver`. `silentMs`: for how long reads have stood still
   * already; `hung`: the worker was ended because it did not serve.
   */
  orphaned(cause: string, silentMs: number, hung?: boolean): void;
  /** How exact the link's answers are has changed, or what has changed in the image; see OpenLink. */
  exactness?(): void;
  /** The image's identity has another modification time now, and is to be recorded anew. */
  repinned?(): void;
  /** Another worker serves it now, by plan: reads stood still for so long. */
  moved(workerPid: number, stallMs: number): void;
  /** The link has ended: `cause` in words, `end` where the worker lived to tell. Called exactly once. */
  ended(cause: string, end: LinkEnd | undefined): void;
}

/** How a takeover went. Unsafe: what was left on the link cannot be told for sure, so it must be given up. */
export type Takeover =
  | { readonly safe: true; readonly unanswered: number }
  | { readonly safe: false; readonly why: string };

/** A link that a worker serves. */
export interface OpenLink {
  /** Unique in the manager's life. */
  readonly number: number;
  /** Who serves it, or did last. */
  readonly workerPid: number;
  /** The end for the kernel; belongs to the caller. */
  readonly kernelFd: number;
  /** What was done on it until now. */
  readonly counters: Readonly<LinkCounters>;
  /** Whether nothing is unread, unanswered or unsent on it. */
  readonly isQuiet: boolean;
  /** Whether the kernel surely has its socket. */
  readonly isUsed: boolean;
  /** How exact its answers are; undefined where its worker has said nothing of it. */
  readonly exactness: Exactness | undefined;
  /** The kernel has its socket: a later manager may rely on it. */
  confirm(): void;
  /** Adds what its requests took to a total, number by number; what they mean is for the manager to know. */
  addLatenciesTo(total: number[]): void;
  /**
   * After `orphaned`: gives the link to another worker and returns when that serves it. Where its workers die again
   * and again it is kept from them for a while, and `waiting` is told why. `orphaned` may follow at any time. @throws
   * the signal's reason
   */
  takeOver(signal: AbortSignal, waiting: (why: string) => void): Promise<Takeover>;
  /** Gives the link up; `ended` follows where a worker has it. Idempotent. */
  close(): void;
}

/** A link that a worker of a former manager serves, and goes on serving. */
export interface FoundLink {
  readonly slot: number;
  readonly copyOnly: boolean;
  /** Makes it ours. */
  open(request: LinkRequest, observer: LinkObserver): OpenLink;
}

export interface LinkServer {
  /**
   * Waits for a worker, gives it the server end of a fresh socketpair, and returns when it serves.
   * @throws ErofsNbdError ERR_WORKER when no worker takes it in time
   */
  openLink(request: LinkRequest, observer: LinkObserver, signal: AbortSignal): Promise<OpenLink>;
}
