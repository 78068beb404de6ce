/**
 * Keeps events that arrive together with an answer: they are dispatched before the code that awaits the answer runs.
 *
 * Used by attach and find.
 */
import type { DeviceEvent } from "../control/protocol.ts";
import type { Session } from "../control/session.ts";
import type { AttachedDevice } from "./attached-device.ts";

/**
 * Runs a request that creates devices, and passes the events of that time to them once the caller could add listeners.
 */
export async function hearEarly(
  session: Session,
  ask: () => Promise<AttachedDevice[]>,
): Promise<AttachedDevice[]> {
  const early: DeviceEvent[] = [];
  const remember = (event: DeviceEvent): number => early.push(event);
  session.on("event", remember);
  try {
    const devices = await ask();
    setImmediate(() => {
      for (const device of devices) {
        // Earlier events belong to a former device of that node.
        const begin = early.findLastIndex((one) => one.event === "attached" && one.device === device.device);
        for (const event of early.slice(begin + 1)) device.hear(event);
      }
    });
    return devices;
  } finally {
    session.off("event", remember);
  }
}
