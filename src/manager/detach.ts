/**
 * Detaches the devices that targets name, unless they are in use.
 *
 * Called by the manager for the `detach` request. Each target has a result of its own, so that one device in use does
 * not keep the others attached. Where one device's image lies on another, the upper one goes first.
 */
import { faultOf } from "../control/fault.ts";
import type { DetachResult, Target } from "../control/protocol.ts";
import { ErofsNbdError } from "../errors.ts";
import { holdersOf, mountPointsOn, nbdBelow } from "../kernel/block-users.ts";
import { devicePath, isExclusivelyHeld } from "../kernel/sysfs.ts";
import { lowerNumber } from "../source/source-spec.ts";
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
  const ended = await detachEach(devices, topFirst(found.flatMap(({ device }) => device ?? [])), force);
  return found.map(({ target, device }) => ({
    target: asAnswered(target),
    ...((device && ended.get(device)) ?? { device: null, error: faultOf(notFound(target)) }),
  }));
}

export async function detachAll(devices: Devices, force: boolean): Promise<DetachResult[]> {
  const ended = await detachEach(devices, topFirst(devices.all), force);
  return [...ended.values()].map((outcome) => ({ target: null, ...outcome }));
}

/** A target as answers repeat it: without what the command saw there. */
const asAnswered = (target: Target): Target => ("path" in target ? { path: target.path } : target);

type Outcome = Pick<DetachResult, "device" | "error">;

/** In the given order. */
async function detachEach(
  devices: Devices,
  ordered: readonly ManagedDevice[],
  force: boolean,
): Promise<ReadonlyMap<ManagedDevice, Outcome>> {
  const outcomes = new Map<ManagedDevice, Outcome>();
  for (const device of ordered) outcomes.set(device, await detachOne(devices, device, force));
  return outcomes;
}

async function detachOne(devices: Devices, device: ManagedDevice, force: boolean): Promise<Outcome> {
  const path = device.index === undefined ? null : devicePath(device.index);
  try {
    if (!force) await refuseUsed(devices, device);
    await device.detach();
    await devices.released(device);
    return { device: path, error: null };
  } catch (error) {
    return { device: path, error: faultOf(error) };
  }
}

/** @throws ErofsNbdError ERR_DEVICE_MOUNTED */
async function refuseUsed(devices: Devices, device: ManagedDevice): Promise<void> {
  const { index, state } = device;
  if (index === undefined) return;
  const inUse = (why: string, hint: string): ErofsNbdError =>
    new ErofsNbdError("ERR_DEVICE_MOUNTED", `cannot detach nbd${index}: ${why}`, { hint });
  const mountPoints = await mountPointsOn(devices.mainOf(device).index ?? index);
  if (mountPoints.length > 0) {
    throw inUse(
      `it is mounted at ${mountPoints.join(", ")}`,
      "umount it first; --force detaches all the same, and what is mounted there gets I/O errors",
    );
  }
  const upper = devicesOn(device, devices.all).map((other) => `nbd${other.index}`);
  if (upper.length > 0) {
    throw inUse(
      `the image of ${upper.join(", ")} lies on it`,
      `detach ${upper.join(", ")} first; --force detaches all the same, and reads there get I/O errors`,
    );
  }
  const holders = holdersOf(index);
  if (holders.length > 0) {
    throw inUse(
      `it is in use by ${holders.join(", ")}`,
      `remove ${holders.join(", ")} first; --force detaches all the same, and reads there get I/O errors`,
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

/** Of these devices, those whose image lies on a device: it is the device or a partition of it, or a file there. */
function devicesOn(device: ManagedDevice, all: readonly ManagedDevice[]): ManagedDevice[] {
  return above(all)(device);
}

/** The same devices, each before those that its image lies on. */
function topFirst(devices: readonly ManagedDevice[]): ManagedDevice[] {
  const devicesAbove = above(devices);
  const ordered = new Set<ManagedDevice>();
  const seen = new Set<ManagedDevice>();
  const add = (device: ManagedDevice): void => {
    if (seen.has(device)) return;
    seen.add(device);
    for (const upper of devicesAbove(device)) add(upper);
    ordered.add(device);
  };
  for (const device of devices) add(device);
  return [...ordered];
}

/** Asks sysfs once for each disk or file system that has images, of which there may be one for hundreds of them. */
function above(devices: readonly ManagedDevice[]): (device: ManagedDevice) => ManagedDevice[] {
  const numbers = new Map<string, readonly number[]>();
  const uppers = devices.flatMap((device) => {
    const number = lowerNumber(device.image.spec);
    if (number === undefined) return [];
    const below = numbers.get(number) ?? nbdBelow(number);
    numbers.set(number, below);
    return below.length === 0 ? [] : { device, below };
  });
  return ({ index }) =>
    uppers.filter(({ below }) => index !== undefined && below.includes(index)).map(({ device }) => device);
}
