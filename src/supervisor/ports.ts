/**
 * What a supervisor needs from the world, as interfaces: the kernel's control family and somebody who serves links.
 *
 * The manager passes NbdNetlink and its worker pool; tests pass what they like. Types only.
 */
import type { NbdNetlink } from "../../netlink/index.ts";
import type { SourceSpec } from "../source/source-spec.ts";
import type { LinkCounters, LinkEnd } from "../worker/link-end.ts";

/** The part of the nbd generic-netlink family that a supervisor uses. */
export type NbdControl = Pick<NbdNetlink, "connect" | "reconfigure" | "disconnect" | "status">;

/** What is served on a device's links. */
export interface Image {
  readonly spec: SourceSpec;
  /** Opened once, by whoever attached; the owner of the device closes it. */
  readonly fd: number;
  readonly blockSizeBytes: number;
}

export interface LinkRequest {
  readonly image: Image;
  readonly copyOnly: boolean;
}

export interface LinkObserver {
  /** The first request has arrived on this link. */
  firstRequest(): void;
  /** Reads were answered with errors, `count` of them since the last call. */
  readErrors(message: string, count: number): void;
  /** The link has ended: `cause` in words, `end` where the worker lived to tell. Called exactly once. */
  ended(cause: string, end: LinkEnd | undefined): void;
}

/** A link that a worker serves. */
export interface OpenLink {
  /** Unique in the manager's life. */
  readonly number: number;
  readonly workerPid: number;
  /** The end for the kernel; belongs to the caller. */
  readonly kernelFd: number;
  /** What the worker last said of it. */
  readonly counters: Readonly<LinkCounters>;
  /** Gives the link up; `ended` follows. Idempotent. */
  close(): void;
}

export interface LinkServer {
  /**
   * Waits for a worker, gives it the server end of a fresh socketpair, and returns when it serves.
   * @throws ErofsNbdError ERR_WORKER when no worker takes it in time
   */
  openLink(request: LinkRequest, observer: LinkObserver, signal: AbortSignal): Promise<OpenLink>;
}
