/**
 * What the command line and the manager say to each other: one JSON object per line, both ways, on a unix socket.
 *
 * A request carries an id and gets exactly one answer with it; after `watch`, events follow on the same connection.
 * The manager checks requests (manager/control-server/params.ts); answers are trusted, since only the manager can send
 * them.
 */
import type { AnyErrorCode, ExitCode } from "../errors.ts";
import type { JsonValue } from "../source/source-spec.ts";
import type { DeviceState } from "../supervisor/device-state.ts";
import type { FailoverOutcome } from "../supervisor/managed-device.ts";
import type { ManagerVitals, RecentTraffic } from "./vitals.ts";

/** A device by index, or a path: of an image, or of a mount point, as the caller sees it. */
export type Target =
  | { readonly index: number }
  | { readonly path: string; readonly seen?: SeenTarget | undefined };

/** Where the caller looks from (source/path-view.ts), and what lies at the path there: numbers as in a FileIdentity. */
export interface SeenTarget {
  readonly view: string | null;
  readonly file: { readonly device: string; readonly inode: string } | null;
}

export interface AttachParams {
  /**
   * What the caller calls the image; its descriptor comes along with the request. With `module` that module's
   * absolute path.
   */
  readonly image: string;
  /** With it `image` is a module that workers load, and that makes a source of these options (source/module-source.ts). */
  readonly module?: ModuleParams | undefined;
  /** `any`: netlink, or ioctl with a note where the kernel has no netlink family for nbd. */
  readonly interface: "netlink" | "ioctl" | "any";
  /** Null: the kernel picks. */
  readonly index: number | null;
  readonly connections: number;
  /** Null: the EROFS block size, or 512 for a raw image. */
  readonly blockSizeBytes: number | null;
  /** 0: never. */
  readonly timeoutSeconds: number;
  readonly deadTimeoutSeconds: number;
  readonly ioTimeoutMs: number;
  readonly hangTimeoutMs: number;
  /**
   * The device is wanted for a mount: the image must be EROFS that this kernel can mount, and the device is lent to
   * this connection until `mounted` arrives on it. If the connection ends before, the manager looks whether the mount
   * is there: then the device gets autoclear, else it is detached.
   */
  readonly forMount: boolean;
}

/** `view` is the caller's (source/path-view.ts): the path must mean the same for manager and workers. */
export interface ModuleParams {
  readonly options: JsonValue;
  readonly view?: string | undefined;
}

export interface Requests {
  /** Who is there. Managers that open images themselves, by path, do not say `takesDescriptors`. */
  hello: {
    params: Record<string, never>;
    result: { readonly version: string; readonly pid: number; readonly takesDescriptors?: true };
  };
  /** With the image's descriptor. Answers when the device can be read. `notes` are lines for the user's stderr. */
  attach: {
    params: AttachParams;
    result: { readonly device: DeviceStatus; readonly notes: readonly string[] };
  };
  /** The mount on a device lent to this connection is there: set autoclear, end the loan. */
  mounted: { params: { readonly index: number }; result: Record<string, never> };
  /** Every device that a target names; with `all`, every device there is. */
  detach: {
    params: { readonly targets: readonly Target[]; readonly all: boolean; readonly force: boolean };
    result: { readonly results: readonly DetachResult[] };
  };
  /** Null: all devices. */
  status: {
    params: { readonly target: Target | null };
    result: {
      readonly devices: readonly DeviceStatus[];
      readonly notes: readonly string[];
      /** Managers of former versions do not say it. */
      readonly manager?: ManagerVitals;
    };
  };
  /** Shuts every live link of a netlink device down, as if its socket had died: for tests of what comes then. */
  cutLinks: { params: { readonly index: number }; result: Record<string, never> };
  /** Replaces every worker by a fresh one of the installed program. */
  renew: {
    params: Record<string, never>;
    result: { readonly workers: number; readonly links: number; readonly longestStallMs: number };
  };
  /** Ends this manager, so that another one goes on with its devices. `auto`: a command has started it, not a service. */
  stepDown: { params: Record<string, never>; result: { readonly auto: boolean } };
  /** From now on events come on this connection. */
  watch: { params: Record<string, never>; result: Record<string, never> };
}

export type Method = keyof Requests;

export interface DetachResult {
  readonly target: Target | null;
  /** «/dev/nbd0»; null when nothing was found for the target. */
  readonly device: string | null;
  readonly error: ControlFault | null;
}

export interface ControlFault {
  readonly code: AnyErrorCode;
  readonly message: string;
  readonly hint?: string | undefined;
  readonly exitCode: ExitCode;
}

/** The `status --json` object: names and types are a contract with users' scripts. */
export interface DeviceStatus {
  readonly device: string | null;
  readonly index: number | null;
  readonly state: DeviceState;
  readonly interface: "netlink" | "ioctl";
  readonly identifier: string;
  readonly source: { readonly type: "file" | "module"; readonly uri: string; readonly sizeBytes: number };
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly readOnly: true;
  readonly mountPoints: readonly string[];
  readonly managerPid: number;
  readonly links: ReadonlyArray<{
    readonly index: number;
    readonly state: "up" | "down";
    readonly workerPid: number;
    readonly generation: number;
  }>;
  readonly counters: {
    readonly requests: number;
    readonly readBytes: number;
    readonly readErrors: number;
    readonly takeovers: number;
    readonly reconnects: number;
    readonly failedFailovers: number;
    readonly handovers: number;
  };
  readonly lastFailover: FailoverOutcome | null;
  /** Why nobody serves, while the state is `stalled`. */
  readonly stalledReason: string | null;
  /**
   * `lease`: no process can change the image. `checked`: what was read is checked against the image's time before
   * it leaves. null: a block device or a module, where nothing can be checked, or a device that another manager
   * made.
   */
  readonly exact: "lease" | "checked" | null;
  /** What has changed in the image since it was attached, while reads are answered with errors for that. */
  readonly imageChange: string | null;
  /** The last seconds; null before there were any. */
  readonly recent: RecentTraffic | null;
}

/** One line of `status --watch --json`. */
export type DeviceEvent = { readonly at: string; readonly device: string | null } & (
  | { readonly event: "attached"; readonly image: string }
  | { readonly event: "state"; readonly state: DeviceState; readonly before: DeviceState }
  | ({ readonly event: "failover" } & Omit<FailoverOutcome, "at">)
  | { readonly event: "stalled" | "attempt-failed" | "detached" | "note"; readonly message: string }
  | { readonly event: "revived" }
  /** A link was handed to another worker by plan. */
  | { readonly event: "moved"; readonly workerPid: number; readonly stallMs: number }
  | { readonly event: "read-errors"; readonly message: string; readonly count: number }
);

export type Answer =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: ControlFault };
export type ServerLine = Answer | { readonly event: DeviceEvent };

/** Longest line either side accepts. */
export const MAX_LINE_BYTES: number = 1 << 20;
