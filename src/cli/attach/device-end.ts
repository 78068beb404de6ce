/**
 * Waits until a device is detached: by the manager's events, and by its status once, so that no event is missed.
 *
 * Used by umount, mount and `attach --foreground`. Detaches nothing itself.
 */
import { type ControlClient, ControlError } from "../../control/client.ts";
import type { DeviceEvent, DeviceStatus } from "../../control/protocol.ts";
import { hasCode } from "../../errors.ts";

/** The status of the device with that index; undefined if the manager has none. */
export async function statusOf(client: ControlClient, index: number): Promise<DeviceStatus | undefined> {
  try {
    const { devices } = await client.request("status", { target: { index } });
    return devices[0];
  } catch (error) {
    if (error instanceof ControlError && error.code === "ERR_NOT_ATTACHED") return undefined;
    throw error;
  }
}

/**
 * The status of the same device, compared by identifier, since the index may have been reused. Undefined when it is
 * gone or the manager has ended.
 */
export async function sameDevice(
  client: ControlClient,
  device: DeviceStatus,
): Promise<DeviceStatus | undefined> {
  if (device.index === null) return undefined;
  try {
    const found = await statusOf(client, device.index);
    return found?.identifier === device.identifier ? found : undefined;
  } catch (error) {
    if (hasCode(error, "ERR_CONTROL")) return undefined;
    throw error;
  }
}

/** Resolves when the device is detached and its record removed, or when the manager ends. Once per connection. */
export function watchEnd(client: ControlClient, device: DeviceStatus): Promise<void> {
  return new Promise((resolve) => {
    const onEvent = (event: DeviceEvent): void => {
      if (event.event === "detached" && event.device === device.device) resolve();
    };
    client
      .watch(onEvent, resolve)
      // The device may have been detached before the watch began.
      .then(() => sameDevice(client, device))
      .then((left) => {
        if (left === undefined) resolve();
      })
      .catch(() => resolve());
  });
}
