/**
 * What a device needs from outside, as interfaces: the nbd commands, and a server of links. Types only.
 *
 * The manager passes NbdControl and its worker pool; tests pass their own.
 */
import type { NbdControl } from "../kernel/nbd-control.ts";
import type { Exactness } from "../source/exactness.ts";
import type { SourceSpec } from "../source/source-spec.ts";
import type { FileHandle } from "../sys/files/file-handle.ts";
import type { LinkCounters, LinkEnd } from "../worker-protocol/link-end.ts";

/** What a supervisor uses of the connection to the nbd family. */
export type NbdCommands = Pick<NbdControl, "connect" | "reconfigure" | "disconnect" | "isBusyWith">;

/** What is served on a device's links. */
export interface Image {
  /** Replaced by one with another modification time where that alone has changed under a lease; see FileSource. */
  spec: SourceSpec;
  /** Opened once, at the attach; the owner of the device closes it. */
  readonly fd: number;
  readonly blockSizeBytes: number;
  /** By which a later manager finds the file where its path does not lead to it. */
  readonly handle?: FileHandle | undefined;
}

export interface LinkRequest {
  readonly image: Image;
  readonly copyOnly: boolean;
  /** Wait a moment for an idle worker, so that not all links of a device die with one. */
  readonly spread: boolean;
  /** The device's identifier and the link index, by which a later manager knows the link. */
  readonly device: string;
  readonly linkIndex: number;
  /** The device's index; undefined until the kernel has given one. */
  readonly deviceIndex: () => number | undefined;
  /** The nbd devices that the image lies on: a worker that serves one of them as well would wait for itself. */
  readonly below: readonly number[];
  /** Whether the kernel's count of reads in flight is about this link alone; see JournaledReplies. */
  readonly counted: boolean;
  /** That count; undefined while it cannot be trusted. Used only at a takeover. */
  readonly inFlight: () => number | undefined;
  /** The dead link that it replaces. It is closed, and its journal is used again, if no other can be had. */
  readonly former?: Pick<OpenLink, "number"> | undefined;
  /** How long a worker may leave the link's requests unanswered. */
  readonly hangTimeoutMs: number;
}

export interface LinkObserver {
  /** The first request has arrived on this link. */
  firstRequest(): void;
  /** Reads were answered with errors, `count` of them since the last call. */
  readErrors(message: string, count: number): void;
  /**
   * Its worker is gone and the socket is still up: `takeOver` is next. `silentMs`: how long reads have stood still
   * already; `hung`: the worker was killed because it did not serve.
   */
  orphaned(cause: string, silentMs: number, hung?: boolean): void;
  /** `exactness` of OpenLink has changed. */
  exactness?(): void;
  /** The image's identity has another modification time now, which has to be recorded. */
  repinned?(): void;
  /** It was handed to another living worker; reads stood still for `stallMs`. */
  moved(workerPid: number, stallMs: number): void;
  /** The link has ended: `cause` as text, `end` if the worker has reported it. Called exactly once. */
  ended(cause: string, end: LinkEnd | undefined): void;
}

/** The result of a takeover. Unsafe: it is not certain which reads are unanswered, so the link must be replaced. */
export type Takeover =
  | { readonly safe: true; readonly unanswered: number }
  | { readonly safe: false; readonly why: string };

/** A link that is open; a worker serves it, or did last. */
export interface OpenLink {
  /** Unique in the manager's life. */
  readonly number: number;
  /** The worker that serves it, or did last. */
  readonly workerPid: number;
  /** The kernel's end; the caller closes it. */
  readonly kernelFd: number;
  /** Requests, bytes and errors so far. */
  readonly counters: Readonly<LinkCounters>;
  /** Whether nothing is unread, unanswered or unsent on it. */
  readonly isQuiet: boolean;
  /** Whether the kernel surely has its socket. */
  readonly isUsed: boolean;
  /** How its reads are kept exact; undefined if its worker has not reported it. */
  readonly exactness: Exactness | undefined;
  /** The kernel has its socket: a later manager may rely on it. */
  confirm(): void;
  /** Adds how long its requests took to a total, bucket by bucket. */
  addLatenciesTo(total: number[]): void;
  /**
   * After `orphaned`: gives the link to another worker and returns when that serves it. If its workers die again and
   * again, the takeover is put off, and `waiting` is called with the reason. `orphaned` may follow at any time.
   * @throws the signal's reason
   */
  takeOver(signal: AbortSignal, waiting: (why: string) => void): Promise<Takeover>;
  /** Closes the link; `ended` follows if a worker has it. Idempotent. */
  close(): void;
}

/** A link that a worker of a former manager still serves. */
export interface FoundLink {
  readonly linkIndex: number;
  readonly copyOnly: boolean;
  /** Takes it into this manager. */
  open(request: LinkRequest, observer: LinkObserver): OpenLink;
}

export interface LinkServer {
  /**
   * Waits for a worker, gives it the server end of a fresh socketpair, and returns when it serves.
   * @throws ErofsNbdError ERR_WORKER when no worker takes it in time
   */
  openLink(request: LinkRequest, observer: LinkObserver, signal: AbortSignal): Promise<OpenLink>;
}
