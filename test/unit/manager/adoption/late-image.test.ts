/** late-image.ts: what becomes of a device that was kept without its image. */
import { closeSync, openSync } from "node:fs";
import { beforeEach, expect, test } from "vitest";
import { awaitImage } from "../../../../src/manager/adoption/late-image.ts";
import type { LeftoverDevice } from "../../../../src/manager/adoption/leftover-device.ts";
import type { FoundImage, Opening } from "../../../../src/manager/adoption/recorded-image.ts";
import type { LostImage } from "../../../../src/opener/reopen-image.ts";
import { openDescriptors } from "../../../helpers/sockets/descriptors.ts";
import { until } from "../../../helpers/until.ts";
import { adopt, directory, kept, kernel, leave, worker } from "./adoption-rig.ts";

const said: string[] = [];
/** Images that devices were continued with. */
const given: number[] = [];
/** Of the manager, what is used here. */
const context = {
  log: { warn: (message: string) => said.push(message), error: (message: string) => said.push(message) },
  devices: { forget: () => {} },
  loans: { continue: () => {} },
  factory: {
    createNetlink: (_: unknown, { fd }: FoundImage) => ({ adopt: async () => void given.push(fd) }),
    persist: async () => {},
  },
} as unknown as Parameters<typeof awaitImage>[0];

let opening: Opening;
let settle: (found: FoundImage | LostImage | undefined) => void;
let cancelled: number;
beforeEach(() => {
  said.length = 0;
  given.length = 0;
  cancelled = 0;
  opening = {
    result: new Promise((resolve) => {
      settle = resolve;
    }),
    late: Promise.resolve(),
    cancel: () => {
      cancelled += 1;
    },
  };
});

/** The device, kept without its image. */
async function keepLate(workers: Parameters<typeof leave>[1] = []): Promise<LeftoverDevice> {
  await leave("a", workers);
  kernel.devices.set("a", 2);
  await adopt([], [], [], { open: () => opening });
  const device = kept[0] as LeftoverDevice;
  awaitImage(context, device, opening);
  return device;
}
const image = (device: LeftoverDevice): FoundImage => ({
  fd: openSync(device.image.spec.path, "r"),
  spec: device.image.spec,
});

test("it is continued when the image is open", async () => {
  const device = await keepLate();
  const found = image(device);
  settle(found);
  await until("the device goes on", () => given.length > 0);
  kept.pop();
  expect(given).toEqual([found.fd]);
  expect(said).toEqual([`nbd2: ${device.image.spec.path} could be opened at last, and the device goes on`]);
  closeSync(found.fd);
});

test("while an old worker serves it, it is left to that worker, and continued after its end", async () => {
  const one = await worker();
  const device = await keepLate([one]);
  const found = image(device);
  settle(found);
  await new Promise(setImmediate);
  expect([given, device.state]).toEqual([[], "serving"]);
  process.kill(one.pid, "SIGKILL");
  await until("the device goes on", () => given.length > 0);
  kept.pop();
  closeSync(found.fd);
});

test("the reason changes when the image turns out to be gone", async () => {
  const device = await keepLate();
  expect(device.stalledReason).toContain("a file system on the way to it does not answer");
  settle({ why: "it is gone", remedy: "hand it in" });
  await until("the reason", () => device.stalledReason === "it is gone; hand it in");
  expect(device).toMatchObject({ state: "stalled", isAwaitingImage: true });
});

test("a module that turns out to be gone cannot be handed in: the device has failed", async () => {
  const module = {
    type: "module",
    path: `${directory}/m.mjs`,
    options: null,
    sizeBytes: 4096,
    identity: null,
  };
  await leave("a", [], { image: module as never });
  kernel.devices.set("a", 2);
  await adopt([], [], [], { open: () => opening });
  const device = kept[0] as LeftoverDevice;
  expect(device.stalledReason).toMatch(/does not answer; the device goes on when it does$/);
  awaitImage(context, device, opening);
  settle({ why: "it is gone", remedy: "hand it in" });
  await until("failed", () => device.state === "failed");
});

test("an image that comes after the end of the device is closed, and nothing waits for it any more", async () => {
  const device = await keepLate();
  const found = image(device);
  const before = openDescriptors();
  await device.detach();
  expect(cancelled).toBe(1);
  settle(found);
  await until("the image is closed", () => openDescriptors().size < before.size);
  expect(given).toEqual([]);
});
