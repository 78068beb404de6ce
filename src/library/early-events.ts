/**
 * Events that come in one go with an answer are heard before whoever waits for the answer runs: they are kept until then.
 */
import type { DeviceEvent } from "../control/protocol.ts";
import type { AttachedDevice } from "./attached-device.ts";
import type { Session } from "./session.ts";

/** Devices that an answer has made, which hear what was told meanwhile: after the caller has had its turn to listen. */
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
        // What was told before is about another one, which had the node.
        const begin = early.findLastIndex((one) => one.event === "attached" && one.device === device.device);
        for (const event of early.slice(begin + 1)) device.hear(event);
      }
    });
    return devices;
  } finally {
    session.off("event", remember);
  }
}
