/**
 * What the manager sees of a device, whichever way the kernel was told of it.
 *
 * DeviceSupervisor (netlink) and IoctlDevice (legacy) implement it. Types only.
 */
import type { EventEmitter } from "eventemitter3";
import type { LinkCounters } from "../worker/link-end.ts";
import type { DeviceState } from "./device-state.ts";
import type { LinkDescription } from "./link-set.ts";
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
  /** The device ends with its last close. */
  autoclear: boolean;
}

/** `takeover` joins this when links outlive their workers. */
export type FailoverLevel = "reconnect";

/** How one failover ended; there is exactly one for each. */
export interface FailoverOutcome {
  readonly result: "recovered" | "failed";
  readonly level: FailoverLevel;
  readonly cause: string;
  /** From the death until the last read that was on the wire had gone out again; until the end when it failed. */
  readonly stallMs: number;
  /** ISO 8601, when the link died. */
  readonly at: string;
  /** Reads that were on the wire when the link died. */
  readonly strandedReads: number;
}

export interface DeviceCounters extends LinkCounters {
  takeovers: number;
  reconnects: number;
  failedFailovers: number;
}

export interface DeviceEvents {
  state: (state: DeviceState, before: DeviceState) => void;
  failover: (outcome: FailoverOutcome) => void;
  /** Nobody serves and the quick attempts are used up; `why` is the last reason. */
  stalled: (why: string) => void;
  revived: () => void;
  attemptFailed: (why: string, attempt: number) => void;
  readErrors: (message: string, count: number) => void;
  /** The record could not be written; the failover went on without. */
  recordFailed: (why: string) => void;
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
  describeLinks(): LinkDescription[];
  /** Pid of the process that carries the device inside the kernel, where there is one. */
  readonly clientPid: number | undefined;
  attach(requestedIndex: number | undefined): Promise<number>;
  detach(): Promise<void>;
  enableAutoclear(): Promise<void>;
}
