/**
 * A device that was kept because its image could not be opened in time, and goes on when it has been.
 *
 * Used when a manager starts. As long as an old worker serves the device it is left to that worker.
 */
import { close } from "../../sys/libc/files.ts";
import { type ContinuationContext, giveImage } from "./continue-device.ts";
import type { LeftoverDevice } from "./leftover-device.ts";
import type { Opening } from "./recorded-image.ts";

/** Returns at once. */
export function awaitImage(context: ContinuationContext, device: LeftoverDevice, opening: Opening): void {
  device.gone.addEventListener("abort", () => opening.cancel(), { once: true });
  void settle(context, device, opening).catch((error: unknown) => context.log.error(String(error)));
}

async function settle(context: ContinuationContext, device: LeftoverDevice, opening: Opening): Promise<void> {
  const found = await opening.result;
  if (found === undefined) return;
  const { path, type } = device.image.spec;
  if ("why" in found) return device.lose(type === "file" ? `${found.why}; ${found.remedy}` : undefined);
  if (!device.isAwaitingImage && !device.gone.aborted) await endOfService(device);
  // It has ended, or an attach has handed its image in.
  if (device.gone.aborted) return void close(found.fd);
  context.log.warn(`nbd${device.index}: ${path} could be opened at last, and the device goes on`);
  await giveImage(context, device, found);
}

/** Resolves when no worker serves the device any more, or it has ended. */
const endOfService = (device: LeftoverDevice): Promise<void> =>
  new Promise((resolve) => {
    device.once("stalled", () => resolve());
    device.gone.addEventListener("abort", () => resolve(), { once: true });
  });
