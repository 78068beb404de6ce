/**
 * What the manager sees of a device, whichever way the kernel was told of it.
 *
 * NetlinkDevice (netlink) and IoctlDevice (legacy) implement it. Types only.
 */
import type { EventEmitter } from "eventemitter3";
import type { LinkCounters } from "../worker-protocol/link-end.ts";
import type { DeviceExactness } from "./device-exactness.ts";
import type { DeviceState } from "./device-state.ts";
import type { LinkDescription } from "./links/device-link.ts";
import type { Image } from "./ports.ts";

/** How a device is to be attached. Everything here is fixed for the device's life, but for `autoclear`. */
export interface DeviceSettings {
  /** Unique text that the kernel keeps with the device; every later RECONFIGURE must repeat it. */
  readonly identifier: string;
  /** Whole blocks. */
  readonly sizeBytes: number;
  readonly connections: number;
  /** The kernel's request timeout; 0 is never. */
  readonly timeoutSeconds: number;
  /** How long the kernel holds reads while no link is up. */
  readonly deadTimeoutSeconds: number;
  /** The block layer's timer: reads that were on a dead link are sent again when it expires. */
  readonly ioTimeoutMs: number;
  /** How long a worker may leave requests unanswered, or say nothing, until it counts as hung. */
  readonly hangTimeoutMs: number;
  /** The device ends with its last close. */
  autoclear: boolean;
}

/** The same socket with another worker, or a fresh socket. */
export type FailoverLevel = "takeover" | "reconnect";

/**
 * What began a failover: a worker that died, one that was ended because it hung, a socket, or a manager that died
 * with its workers. «unknown» stands in records of former versions only.
 */
export type FailoverCauseClass = "worker-exit" | "worker-hang" | "link" | "manager" | "unknown";

/** How one failover ended; there is exactly one for each. */
export interface FailoverOutcome {
  readonly result: "recovered" | "failed";
  readonly level: FailoverLevel;
  readonly cause: string;
  /** The same in one of few words, for programs. */
  readonly causeClass: FailoverCauseClass;
  /** For how long reads stood still: until those that waited were served, or had gone out again; until the end when it failed. */
  readonly stallMs: number;
  /** ISO 8601, when the link died. */
  readonly at: string;
  /** Reads that were waiting for their answer when it began. */
  readonly strandedReads: number;
}

export interface DeviceCounters extends LinkCounters {
  takeovers: number;
  reconnects: number;
  failedFailovers: number;
  /** Links handed from worker to worker by plan: upgrades, and keeping links apart. */
  handovers: number;
}

/** What a device has been through, for a manager after this one. */
export interface DeviceHistory {
  /** Of links that are no more; those of a live link are in its journal. */
  readonly past: Readonly<LinkCounters>;
  readonly failovers: Readonly<Omit<DeviceCounters, keyof LinkCounters>>;
  readonly lastFailover: FailoverOutcome | null;
}

export interface DeviceEvents {
  state: (state: DeviceState, before: DeviceState) => void;
  failover: (outcome: FailoverOutcome) => void;
  /** Nobody serves and the quick attempts are used up; `why` is the last reason. */
  stalled: (why: string) => void;
  revived: () => void;
  /** A link was handed to another worker by plan; reads stood still for so long. */
  moved: (workerPid: number, stallMs: number) => void;
  attemptFailed: (why: string, attempt: number) => void;
  readErrors: (message: string, count: number) => void;
  /** The image is no longer what was attached, for this reason, and reads fail; undefined: it is again. */
  imageChanged: (change: string | undefined) => void;
  /** The image's identity has another modification time now, and belongs into the record. */
  repinned: () => void;
  /** The record could not be written; the failover went on without. */
  recordFailed: (why: string) => void;
  /** The block layer's request timer could not be set: reads of a lost socket wait longer. */
  timerFailed: (why: string) => void;
  /** The device is gone and everything of it let go. */
  released: (why: string) => void;
}

export interface ManagedDevice extends EventEmitter<DeviceEvents> {
  readonly interface: "netlink" | "ioctl";
  readonly settings: DeviceSettings;
  readonly image: Image;
  readonly state: DeviceState;
  /** Undefined until the kernel has given one. */
  readonly index: number | undefined;
  readonly counters: DeviceCounters;
  readonly lastFailover: FailoverOutcome | null;
  /** Why nobody serves, where that is so. */
  readonly stalledReason: string | null;
  readonly exactness: DeviceExactness;
  readonly history: DeviceHistory;
  /**
   * For how long nothing was done about a change that is under way, in milliseconds: 0 in a state that lasts, and
   * while the kernel has the word. More than a minute is a bug of ours.
   */
  readonly silentMs: number;
  describeLinks(): LinkDescription[];
  /** Adds what its requests took to a total; see OpenLink. */
  addLatenciesTo(total: number[]): void;
  /** For how long reads may have waited in an outage that goes on, at most; 0 where none waits in one. */
  readonly waitingMs: number;
  /** Pid of the process that carries the device inside the kernel, where there is one. */
  readonly clientPid: number | undefined;
  attach(requestedIndex: number | undefined): Promise<number>;
  detach(): Promise<void>;
  enableAutoclear(): Promise<void>;
}
