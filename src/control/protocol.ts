/**
 * The protocol of the control socket: one JSON object per line, in both directions.
 *
 * Used by the client and the manager. A request has an id and gets exactly one answer with that id; after `watch`,
 * events follow on the same connection. The manager validates requests (manager/control-server/params.ts). Clients
 * trust answers, because only the manager can send them.
 */
import type { AnyErrorCode, ExitCode } from "../errors.ts";
import type { JsonValue } from "../source/source-spec.ts";
import type { DeviceState } from "../supervisor/device-state.ts";
import type { FailoverOutcome } from "../supervisor/managed-device.ts";
import type { ManagerVitals, RecentTraffic } from "./vitals.ts";

/**
 * The version of the protocol, which `hello` reports. Commands, libraries and managers of different versions meet at
 * every upgrade, so:
 *
 * - A manager takes the requests of every version before. A new parameter is optional, or has a default.
 * - A manager refuses parameters that it does not know. A client sends what is new only to a manager that has reported
 *   the version in which it came, and else does without, or says that the manager must be upgraded.
 * - Results only gain keys, and clients ignore those that they do not know.
 *
 * Versions: 1, which is not reported; 2, targets by identifier; 3, `part` of an attach.
 */
export const PROTOCOL = 3;

/**
 * A device by its index, its identifier (since version 2), or the path of an image or mount point, as the client sees
 * it.
 */
export type Target =
  | { readonly index: number }
  | { readonly identifier: string }
  | { readonly path: string; readonly seen?: SeenTarget | undefined };

/** The client's view of the file system (source/path-view.ts), and the file at the path in it, as in a FileIdentity. */
export interface SeenTarget {
  readonly view: string | null;
  readonly file: { readonly device: string; readonly inode: string } | null;
}

export interface AttachParams {
  /**
   * The image's path as the client names it; the image's descriptor is sent with the request. With `module`, the
   * absolute path of the module.
   */
  readonly image: string;
  /** If set, `image` is a module that workers load and call with these options (source/module-source.ts). */
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
   * The device is to be mounted: the image must be EROFS that this kernel can mount, and the device is on loan to this
   * connection until `mounted` arrives on it. If the connection ends before, the manager enables autoclear if the
   * device is mounted, and detaches it otherwise.
   */
  readonly forMount: boolean;
  /** Since version 3, with `forMount`: where the image is not simply one EROFS file system. */
  readonly part?: ImagePart | undefined;
}

/** What an image to be mounted consists of. */
export interface ImagePart {
  /** Where the file system begins (the mount option fsoffset). */
  readonly offsetBytes: number;
  /** How many further images are named for it, with data that the file system keeps there. */
  readonly extraDevices?: number | undefined;
  /** It is such an image, without a superblock, of the file system on the device with this identifier. */
  readonly extraOf?: string | undefined;
}

/** `view` is the client's (source/path-view.ts): the path must name the same file for manager and workers. */
export interface ModuleParams {
  readonly options: JsonValue;
  readonly view?: string | undefined;
}

export interface Requests {
  /** Identifies the manager. Former managers, which open images by path, do not send `takesDescriptors`. */
  hello: {
    params: Record<string, never>;
    result: {
      readonly version: string;
      readonly pid: number;
      readonly takesDescriptors?: true;
      /** See PROTOCOL. */
      readonly protocol?: number | undefined;
    };
  };
  /**
   * Sent with the image's descriptor. Answered when the device can be read. `notes` are lines for the user's stderr.
   */
  attach: {
    params: AttachParams;
    result: { readonly device: DeviceStatus; readonly notes: readonly string[] };
  };
  /** The device on loan to this connection is mounted: enable autoclear, end the loan. */
  mounted: { params: { readonly index: number }; result: Record<string, never> };
  /** Detaches every device that a target names, or with `all` every device. */
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
      /** Former managers do not send it. */
      readonly manager?: ManagerVitals;
    };
  };
  /** Shuts down every live link of a netlink device, as a fault injection. */
  cutLinks: { params: { readonly index: number }; result: Record<string, never> };
  /** Replaces every worker by a new one of the installed version. */
  renew: {
    params: Record<string, never>;
    result: { readonly workers: number; readonly links: number; readonly longestStallMs: number };
  };
  /** Ends this manager, so that another one adopts its devices. `auto`: a command started it, not a service. */
  stepDown: { params: Record<string, never>; result: { readonly auto: boolean } };
  /** Subscribes this connection to events. */
  watch: { params: Record<string, never>; result: Record<string, never> };
}

export type Method = keyof Requests;

export interface DetachResult {
  readonly target: Target | null;
  /** "/dev/nbd0"; null if the target was not found. */
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
  /** The device with the file system of which this one has data (mount option `device`); left out for all others. */
  readonly extraOf?: string | undefined;
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
  /** Why the device is not served, while the state is `stalled`. */
  readonly stalledReason: string | null;
  /**
   * `lease`: no process can change the image. `checked`: data is checked against the image's timestamps before it is
   * sent. null: a block device or a module, which cannot be checked, or a device that another manager attached.
   */
  readonly exact: "lease" | "checked" | null;
  /** How the image has changed since the attach, while reads fail because of that. */
  readonly imageChange: string | null;
  /** Traffic of the last seconds; null until it was measured. */
  readonly recent: RecentTraffic | null;
}

/** One line of `status --watch --json`. */
export type DeviceEvent = { readonly at: string; readonly device: string | null } & (
  | { readonly event: "attached"; readonly image: string }
  | { readonly event: "state"; readonly state: DeviceState; readonly before: DeviceState }
  | ({ readonly event: "failover" } & Omit<FailoverOutcome, "at">)
  | { readonly event: "stalled" | "attempt-failed" | "detached" | "note"; readonly message: string }
  | { readonly event: "revived" }
  /** A link was handed over to another worker. */
  | { readonly event: "moved"; readonly workerPid: number; readonly stallMs: number }
  | { readonly event: "read-errors"; readonly message: string; readonly count: number }
);

export type Answer =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: ControlFault };
export type ServerLine = Answer | { readonly event: DeviceEvent };

/** The longest line that either side accepts. */
export const MAX_LINE_BYTES: number = 1 << 20;
