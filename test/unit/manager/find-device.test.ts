/** find-device.ts: which of the attached devices a target names. */
import { expect, test } from "vitest";
import { findDevices, notFound } from "../../../src/manager/find-device.ts";
import type { ManagedDevice } from "../../../src/supervisor/managed-device.ts";

const device = (index: number, identifier: string): ManagedDevice =>
  ({
    index,
    settings: { identifier },
    image: { spec: { type: "module", path: "/images/source.mjs" } },
  }) as unknown as ManagedDevice;
const [first, second] = [device(3, "one"), device(4, "two")];
const devices = [first, second];

test("an index and an identifier name one device, a path all of its image", async () => {
  expect(await findDevices(devices, { index: 4 })).toEqual([second]);
  expect(await findDevices(devices, { identifier: "one" })).toEqual([first]);
  expect(await findDevices(devices, { path: "/images/source.mjs" })).toEqual([first, second]);
});

test("an identifier is not taken for that of the device which has the index now", async () => {
  expect(await findDevices([device(3, "later")], { identifier: "one" })).toEqual([]);
  expect(notFound({ identifier: "one" })).toMatchObject({
    code: "ERR_NOT_ATTACHED",
    message: "cannot find one: no attached device has this identifier",
  });
});
