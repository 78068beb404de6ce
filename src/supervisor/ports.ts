/**
 * What a supervisor needs from the world, as interfaces: the kernel's control family, what the kernel shows of a
 * device, and somebody who serves links.
 *
 * The manager passes NbdNetlink and its worker pool; tests pass what they like. Types only.
 */
import type { NbdNetlink } from "../../netlink/index.ts";
import type { SourceSpec } from "../source/source-spec.ts";
import type { LinkCounters, LinkEnd } from "../worker/link-end.ts";
import type { ProbeResult } from "./probe.ts";

/** The part of the nbd generic-netlink family that a supervisor uses. */
export type NbdControl = Pick<NbdNetlink, "connect" | "reconfigure" | "disconnect" | "status">;

/** What can be seen of a device without netlink; see sysfs.ts and probe.ts, which are this in real life. */
export interface DeviceView {
  /** The identifier that the kernel keeps with a device; undefined when it is not configured by netlink. */
  backendOf(index: number): string | undefined;
  /** Undefined when the device is not configured. */
  configuringThread(index: number): number | undefined;
  deviceSizeBytes(index: number): number | undefined;
  findByBackend(identifier: string): number | undefined;
  readsInFlight(index: number): number;
  setIoTimeout(index: number, milliseconds: number): Promise<void>;
  /** Reads the first block, in a process that can be lost. Never rejects. */
  probe(index: number, signal: AbortSignal): Promise<ProbeResult>;
}

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
  /** Rather wait a moment for an idle worker than put a device's links on one: they would all die with it. */
  readonly spread: boolean;
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
