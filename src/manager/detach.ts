/**
 * Detaches the devices that targets name, unless they are in use.
 *
 * Called by the manager for the `detach` request. Each target has a result of its own, so that one device in use does
 * not keep the others attached.
 */
import { faultOf } from "../control/fault.ts";
import type { DetachResult, Target } from "../control/protocol.ts";
import { ErofsNbdError } from "../errors.ts";
import { devicePath, isExclusivelyHeld, mountPointsOf } from "../kernel/sysfs.ts";
import type { ManagedDevice } from "../supervisor/managed-device.ts";
import type { Devices } from "./devices.ts";
import { findDevices, notFound } from "./find-device.ts";

export async function detachTargets(
  devices: Devices,
  targets: readonly Target[],
  force: boolean,
): Promise<DetachResult[]> {
  // All are looked up before the first one is detached, as they were when the command was given.
  const found: Array<{ target: Target; device: ManagedDevice | undefined }> = [];
  for (const target of targets) {
    const named = await findDevices(devices.all, target);
    if (named.length === 0) found.push({ target, device: undefined });
    for (const device of named) found.push({ target, device });
  }
  const results: DetachResult[] = [];
  for (const { target, device } of found) {
    if (device !== undefined) results.push(await detachOne(devices, device, asAnswered(target), force));
    else results.push({ target: asAnswered(target), device: null, error: faultOf(notFound(target)) });
  }
  return results;
}

export async function detachAll(devices: Devices, force: boolean): Promise<DetachResult[]> {
  const results: DetachResult[] = [];
  for (const device of devices.all) results.push(await detachOne(devices, device, null, force));
  return results;
}

/** A target as answers repeat it: without what the command saw there. */
const asAnswered = (target: Target): Target => ("path" in target ? { path: target.path } : target);

async function detachOne(
  devices: Devices,
  device: ManagedDevice,
  target: Target | null,
  force: boolean,
): Promise<DetachResult> {
  const path = device.index === undefined ? null : devicePath(device.index);
  try {
    if (!force) await refuseUsed(device);
    await device.detach();
    await devices.released(device);
    return { target, device: path, error: null };
  } catch (error) {
    return { target, device: path, error: faultOf(error) };
  }
}

/** @throws ErofsNbdError ERR_DEVICE_MOUNTED */
async function refuseUsed({ index, state }: ManagedDevice): Promise<void> {
  if (index === undefined) return;
  const inUse = (why: string, hint: string): ErofsNbdError =>
    new ErofsNbdError("ERR_DEVICE_MOUNTED", `cannot detach nbd${index}: ${why}`, { hint });
  const mountPoints = await mountPointsOf(index);
  if (mountPoints.length > 0) {
    throw inUse(
      `it is mounted at ${mountPoints.join(", ")}`,
      "umount it first; --force detaches all the same, and what is mounted there gets I/O errors",
    );
  }
  // The device is opened for this, which could wait for its links in any other state.
  if (state === "serving" && (await isExclusivelyHeld(index))) {
    throw inUse(
      "another mount namespace or device uses it",
      "look into /proc/*/mountinfo for it; --force detaches all the same",
    );
  }
}
