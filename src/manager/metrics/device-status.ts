/**
 * A device as `status --json` shows it. Called by the manager for `status` and for the answer to an attach.
 */
import type { DeviceStatus } from "../../control/protocol.ts";
import { devicePath, type MountTable, mountPointsOf } from "../../kernel/sysfs.ts";
import { sourceSizeBytes, sourceUri } from "../../source/source-spec.ts";
import type { ManagedDevice } from "../../supervisor/managed-device.ts";
import type { Devices } from "../devices.ts";
import type { Observatory } from "./observatory.ts";

/** `mounts`: mountinfo as read before, for several devices; it is read anew where that is missing. */
export async function describeDevice(
  device: ManagedDevice,
  devices: Pick<Devices, "mainOf">,
  observatory: Observatory,
  mounts?: MountTable,
): Promise<DeviceStatus> {
  const { index, image, settings } = device;
  // The kernel names the main device alone in its table of mounts.
  const main = devices.mainOf(device);
  return {
    device: index === undefined ? null : devicePath(index),
    index: index ?? null,
    state: device.state,
    interface: device.interface,
    identifier: settings.identifier,
    source: {
      type: image.spec.type,
      uri: sourceUri(image.spec),
      sizeBytes: sourceSizeBytes(image.spec),
    },
    sizeBytes: settings.sizeBytes,
    blockSizeBytes: image.blockSizeBytes,
    readOnly: true,
    mountPoints: main.index === undefined ? [] : await mountPointsOf(main.index, mounts),
    ...(main === device || main.index === undefined ? {} : { extraOf: devicePath(main.index) }),
    managerPid: process.pid,
    links: device.describeLinks(),
    counters: device.counters,
    lastFailover: device.lastFailover,
    stalledReason: device.stalledReason,
    ...device.exactness,
    recent: observatory.recent(device),
  };
}
