/**
 * The content of a record: all that a later manager has to know of a device. Made here from a device.
 *
 * The field names are those of the file, and records of former versions must be readable: a field is never renamed,
 * and a new one is optional in record-schema.ts.
 */
import type { SourceSpec } from "../../source/source-spec.ts";
import type { DeviceHistory, DeviceSettings, ManagedDevice } from "../../supervisor/managed-device.ts";
import type { Image } from "../../supervisor/ports.ts";
import type { FileHandle } from "../../sys/files/file-handle.ts";
import { identifyProcess, type ProcessIdentity } from "../../sys/process-identity.ts";

export const RECORD_VERSION = 1;

export interface DeviceRecord {
  readonly version: typeof RECORD_VERSION;
  readonly identifier: string;
  readonly bootId: string;
  readonly interface: "netlink" | "ioctl";
  /** Null until the kernel has answered CONNECT; the device is found by its identifier then. */
  readonly index: number | null;
  readonly image: SourceSpec;
  /** Null where the file system has none, and in records of former versions. */
  readonly imageHandle: FileHandle | null;
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly connections: number;
  readonly timeoutSeconds: number;
  readonly deadTimeoutSeconds: number;
  readonly ioTimeoutMs: number;
  readonly hangTimeoutMs: number;
  readonly autoclear: boolean;
  /** Left out for most devices, and in records of former versions. */
  readonly extraOf?: string | undefined;
  readonly manager: ProcessIdentity;
  /** The processes that serve the device or are about to: they hold the server ends of its links. */
  readonly workers: readonly ProcessIdentity[];
  /** The process inside NBD_DO_IT, for ioctl devices. */
  readonly client: ProcessIdentity | null;
  /** The process that is about to mount the device and has not reported the mount; see loans.ts. */
  readonly lentTo: ProcessIdentity | null;
  /** As of the last failover. */
  readonly history: DeviceHistory;
}

/** A record before the store adds what is the same for all. */
export type NewRecord = Omit<DeviceRecord, "version" | "bootId" | "manager">;

export function recordOf(
  device: ManagedDevice,
  workerPids: readonly number[],
  lentTo: ProcessIdentity | null,
): NewRecord {
  const { settings, image, clientPid } = device;
  return {
    ...settings,
    interface: device.interface,
    index: device.index ?? null,
    image: image.spec,
    imageHandle: image.handle ?? null,
    blockSizeBytes: image.blockSizeBytes,
    workers: workerPids.map(identifyProcess).filter((found) => found !== undefined),
    lentTo,
    history: device.history,
    client: (clientPid === undefined ? undefined : identifyProcess(clientPid)) ?? null,
  };
}

/** The image of a record's device. `spec` where it was opened again; `fd` is -1 where it is not open. */
export function imageOf(record: DeviceRecord, fd: number, spec: SourceSpec = record.image): Image {
  const { imageHandle, blockSizeBytes } = record;
  return { spec, fd, blockSizeBytes, handle: imageHandle ?? undefined };
}

/** How the device of a record was attached. */
export function settingsOf(record: DeviceRecord): DeviceSettings {
  const { identifier, sizeBytes, connections, timeoutSeconds, deadTimeoutSeconds } = record;
  const { ioTimeoutMs, hangTimeoutMs, autoclear, extraOf } = record;
  return {
    identifier,
    sizeBytes,
    connections,
    timeoutSeconds,
    deadTimeoutSeconds,
    ioTimeoutMs,
    hangTimeoutMs,
    extraOf,
    autoclear,
  };
}
