/**
 * A device as the manager sees it, attached through netlink or by ioctl. Types only.
 *
 * NetlinkDevice, IoctlDevice (legacy) and LeftoverDevice implement it.
 */
import type { EventEmitter } from "eventemitter3";
import type { LinkCounters } from "../worker-protocol/link-end.ts";
import type { DeviceExactness } from "./device-exactness.ts";
import type { DeviceState } from "./device-state.ts";
import type { LinkDescription } from "./links/device-link.ts";
import type { Image } from "./ports.ts";

/** How a device is attached. All of it is fixed for the device's life, except for `autoclear`. */
export interface DeviceSettings {
  /** Unique text that the kernel keeps with the device; every RECONFIGURE must repeat it. */
  readonly identifier: string;
  /** Whole blocks. */
  readonly sizeBytes: number;
  readonly connections: number;
  /** The kernel's request timeout; 0: none. */
  readonly timeoutSeconds: number;
  /** How long the kernel holds reads while no link is up. */
  readonly deadTimeoutSeconds: number;
  /** The block layer's timer: reads that were sent on a dead link are sent again when it expires. */
  readonly ioTimeoutMs: number;
  /** How long a worker may leave requests or pings unanswered until it counts as hung. */
  readonly hangTimeoutMs: number;
  /** The identifier of the device with the file system of which this one has data. */
  readonly extraOf?: string | undefined;
  /** The kernel ends the device with its last close. */
  autoclear: boolean;
}

/** Another worker on the same socket, or a fresh socket. */
export type FailoverLevel = "takeover" | "reconnect";

/**
 * What began a failover: a worker that died, one that was killed because it hung, a dead socket, or a manager that died
 * with its workers. `unknown` stands only in records of former versions.
 */
export type FailoverCauseClass = "worker-exit" | "worker-hang" | "link" | "manager" | "unknown";

/** How a failover ended; there is exactly one for each. */
export interface FailoverOutcome {
  readonly result: "recovered" | "failed";
  readonly level: FailoverLevel;
  readonly cause: string;
  /** The class of the cause, for programs. */
  readonly causeClass: FailoverCauseClass;
  /** How long reads stood still: until waiting reads were served or sent again, or until the failover had failed. */
  readonly stallMs: number;
  /** ISO 8601, when the link died. */
  readonly at: string;
  /** Reads that were in flight when it began. */
  readonly strandedReads: number;
}

export interface DeviceCounters extends LinkCounters {
  takeovers: number;
  reconnects: number;
  failedFailovers: number;
  /** Links handed from worker to worker on purpose: upgrades, and separation of suspect links. */
  handovers: number;
}

/** What a device has done so far, for the next manager. */
export interface DeviceHistory {
  /** Of former links; the counters of a live link are in its journal. */
  readonly past: Readonly<LinkCounters>;
  readonly failovers: Readonly<Omit<DeviceCounters, keyof LinkCounters>>;
  readonly lastFailover: FailoverOutcome | null;
}

export interface DeviceEvents {
  state: (state: DeviceState, before: DeviceState) => void;
  failover: (outcome: FailoverOutcome) => void;
  /** No worker serves and the quick attempts are used up; `why` is the last reason. */
  stalled: (why: string) => void;
  revived: () => void;
  /** A link was handed to another worker on purpose; reads stood still for `stallMs`. */
  moved: (workerPid: number, stallMs: number) => void;
  attemptFailed: (why: string, attempt: number) => void;
  readErrors: (message: string, count: number) => void;
  /** The image has changed, for this reason, and reads fail; undefined: it is what was attached again. */
  imageChanged: (change: string | undefined) => void;
  /** The image's identity has another modification time now, which has to be recorded. */
  repinned: () => void;
  /** The record could not be written; the failover went on. */
  recordFailed: (why: string) => void;
  /** The block layer's timer could not be set: reads of a dead link wait longer. */
  timerFailed: (why: string) => void;
  /** The device is gone and its resources are released. */
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
  /** Why no worker serves; null in every state but `stalled`. */
  readonly stalledReason: string | null;
  readonly exactness: DeviceExactness;
  readonly history: DeviceHistory;
  /**
   * Milliseconds without progress of a change that is under way; 0 in a lasting state, and while the kernel has a
   * command. More than a minute is a bug in erofs-nbd.
   */
  readonly silentMs: number;
  describeLinks(): LinkDescription[];
  /** Adds how long its requests took to a total; see OpenLink. */
  addLatenciesTo(total: number[]): void;
  /** How long reads may have waited at most in an outage that is not over; 0 if none waits. */
  readonly waitingMs: number;
  /** Pid of the process that carries the device inside the kernel, if there is one (ioctl). */
  readonly clientPid: number | undefined;
  attach(requestedIndex: number | undefined): Promise<number>;
  detach(): Promise<void>;
  enableAutoclear(): Promise<void>;
}
