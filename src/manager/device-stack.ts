/**
 * Devices whose image lies on another device of this manager: it is that device or a partition of it, or a file in a
 * file system there.
 *
 * Used for detaches: without the lower device the upper one has no data.
 */
import { nbdBelow } from "../kernel/block-users.ts";
import type { ManagedDevice } from "../supervisor/managed-device.ts";

/** Of these devices, those whose image lies on a device. */
export function devicesOn(device: ManagedDevice, all: readonly ManagedDevice[]): ManagedDevice[] {
  return above(all)(device);
}

/** The same devices, each before those that its image lies on. */
export function topFirst(devices: readonly ManagedDevice[]): ManagedDevice[] {
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
    const { spec } = device.image;
    if (spec.type !== "file") return [];
    const { device: number } = spec.identity;
    const below = numbers.get(number) ?? nbdBelow(number);
    numbers.set(number, below);
    return below.length === 0 ? [] : { device, below };
  });
  return ({ index }) =>
    uppers.filter(({ below }) => index !== undefined && below.includes(index)).map(({ device }) => device);
}
