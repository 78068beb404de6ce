/**
 * Waiting for the end of one device: by the manager's events, with a look at what is there, so that none is missed.
 *
 * Used by umount and by attach --foreground. It ends nothing itself.
 */
import { type ControlClient, ControlError } from "../../control/client.ts";
import type { DeviceEvent, DeviceStatus } from "../../control/protocol.ts";

/** The device with that index, if it is one of the manager's. */
export async function statusOf(client: ControlClient, index: number): Promise<DeviceStatus | undefined> {
  try {
    const { devices } = await client.request("status", { target: { index } });
    return devices[0];
  } catch (error) {
    if (error instanceof ControlError && error.code === "ERR_NOT_ATTACHED") return undefined;
    throw error;
  }
}

/** The very same device, not one that got its index meanwhile. A manager that has ended has no devices left. */
export async function sameDevice(
  client: ControlClient,
  device: DeviceStatus,
): Promise<DeviceStatus | undefined> {
  if (device.index === null) return undefined;
  try {
    const found = await statusOf(client, device.index);
    return found?.identifier === device.identifier ? found : undefined;
  } catch (error) {
    if ((error as { code?: unknown }).code === "ERR_CONTROL") return undefined;
    throw error;
  }
}

/** Resolves when the device has ended and its record is gone, or when the manager has ended. One per connection. */
export function watchEnd(client: ControlClient, device: DeviceStatus): Promise<void> {
  return new Promise((resolve) => {
    const onEvent = (event: DeviceEvent): void => {
      if (event.event === "detached" && event.device === device.device) resolve();
    };
    client
      .watch(onEvent, resolve)
      // It may have ended before the watch began.
      .then(() => sameDevice(client, device))
      .then((left) => {
        if (left === undefined) resolve();
      })
      .catch(() => resolve());
  });
}
