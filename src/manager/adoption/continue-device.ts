/**
 * Continues a netlink device that a former manager connected: at a start, or later when its lost image comes back.
 *
 * Used by the manager. The kernel's device, its identifier and its record stay; only the object that supervises it is
 * new.
 */
import type { Log } from "../../log/log.ts";
import type { FoundLink } from "../../pool/links/found-link.ts";
import { describeChange } from "../../source/file-identity.ts";
import { type OpenImage, openHandedImage } from "../../source/open-image.ts";
import { sourceUri } from "../../source/source-spec.ts";
import type { Image } from "../../supervisor/ports.ts";
import { fileHandleOf } from "../../sys/files/file-handle.ts";
import { duplicate } from "../../sys/libc/files.ts";
import type { DeviceFactory } from "../create-device.ts";
import type { Devices } from "../devices.ts";
import type { Loans } from "../loans.ts";
import { type DeviceRecord, imageOf, settingsOf } from "../records/record.ts";
import { LeftoverDevice } from "./leftover-device.ts";
import type { FoundImage } from "./recorded-image.ts";

export interface ContinuationContext {
  readonly log: Log;
  readonly devices: Devices;
  readonly loans: Loans;
  readonly factory: DeviceFactory;
}

/** Continues with the links that its workers still serve; with none it begins with a failover. Takes the image over. */
export async function continueDevice(
  { log, devices, loans, factory }: ContinuationContext,
  record: DeviceRecord,
  image: Image,
  index: number,
  links: readonly FoundLink[],
): Promise<void> {
  const device = factory.createNetlink(settingsOf(record), image);
  if (record.lentTo !== null) void loans.continue(device, record.lentTo);
  try {
    await device.adopt(index, links, "a dead manager left it behind", record.history);
  } catch (error) {
    devices.forget(device);
    throw error;
  }
  await factory.persist(device).catch((error: unknown) => log.error(String(error)));
}

/** Continues every device that waits for this image, each with a descriptor of its own. Returns their indexes. */
export async function returnImage(context: ContinuationContext, { fd, spec }: OpenImage): Promise<number[]> {
  const { log, devices } = context;
  const waiting = devices.all.filter(
    (device): device is LeftoverDevice =>
      device instanceof LeftoverDevice &&
      device.isAwaitingImage &&
      device.image.spec.type === "file" &&
      describeChange(device.image.spec.identity, spec.identity) === undefined,
  );
  for (const device of waiting) {
    const own = openHandedImage(duplicate(fd), spec.path);
    log.warn(`nbd${device.index} was waiting for ${sourceUri(spec)}, and goes on with it`);
    await giveImage(context, device, own);
  }
  return waiting.map(({ index }) => index);
}

/** Continues a leftover device that no worker serves with its image. Takes the image over. */
export async function giveImage(
  context: ContinuationContext,
  device: LeftoverDevice,
  { fd, spec }: FoundImage,
): Promise<void> {
  const record = device.leave();
  context.devices.forget(device);
  const image = { ...imageOf(record, fd, spec), handle: record.imageHandle ?? fileHandleOf(fd) };
  await continueDevice(context, record, image, device.index, []);
}
