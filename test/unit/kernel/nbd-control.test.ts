/**
 * NbdControl over a fake transport: when it opens, which devices have an unanswered command, what it tells of events.
 */
import { constants } from "node:os";
import { expect, test, vi } from "vitest";
import { type DriverState, driverState } from "../../../src/kernel/modules.ts";
import { NbdControl } from "../../../src/kernel/nbd-control.ts";
import { until } from "../../helpers/until.ts";
import { ack, attribute, generic, uint } from "../netlink/encode.ts";
import {
  acknowledge,
  createFakeFamilies,
  type FakeFamilies,
  type Handler,
} from "../netlink/fake-families.ts";

vi.mock("../../../src/kernel/modules.ts", async (original) => {
  const real = await original<typeof import("../../../src/kernel/modules.ts")>();
  return { ...real, driverState: vi.fn(real.driverState) };
});

interface Rig {
  readonly fake: FakeFamilies;
  readonly control: NbdControl;
  /** Indexes of LINK_DEAD events, and "all" for each request to check every device. */
  readonly events: Array<number | "all">;
}

function rig(handler?: Handler): Rig {
  const fake = createFakeFamilies(handler);
  const events: Array<number | "all"> = [];
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  const listener = {
    linkDead: (index: number) => void events.push(index),
    resynchronise: () => void events.push("all"),
  };
  return { fake, events, control: new NbdControl(log, listener, fake.openTransport) };
}

test("opens nothing before the first command, and one connection for all of them", async () => {
  const { fake, control } = rig();
  expect(fake.transports).toHaveLength(0);
  await control.reconfigure({ index: 1, backendIdentifier: "one" });
  const opened = fake.transports.length;
  await Promise.all([
    control.open(),
    control.disconnect({ index: 2, backendIdentifier: "two" }),
    control.reconfigure({ index: 1, backendIdentifier: "one" }),
  ]);
  expect(fake.transports).toHaveLength(opened);
  await control.close();
});

test("a failed opening is tried again by the next command", async () => {
  const { fake, control } = rig();
  const nbd = fake.families.get("nbd");
  fake.families.delete("nbd");
  await expect(control.open()).rejects.toMatchObject({ name: "ErofsNbdError" });
  expect(control.isBusyWith("one")).toBe(false);
  if (nbd !== undefined) fake.families.set("nbd", nbd);
  await control.disconnect({ index: 1, backendIdentifier: "one" });
  await control.close();
});

test.each<[DriverState, string, string, RegExp]>([
  ["module", "ERR_NO_NBD", "the kernel has no nbd driver loaded", /^load it: modprobe nbd max_part=0$/],
  ["missing", "ERR_NO_NBD", "the kernel has no nbd driver", /^install the kernel package with nbd\.ko/],
  ["loaded", "ERR_NO_NETLINK", "the nbd driver cannot be reached through netlink", /--ioctl/],
  ["built in", "ERR_NO_NETLINK", "the nbd driver cannot be reached through netlink", /--ioctl/],
])(
  "a missing family is explained by the driver, which is %s: modprobe is no help without a module",
  async (state, code, why, hint) => {
    vi.mocked(driverState).mockReturnValue(state);
    const { fake, control } = rig();
    fake.families.delete("nbd");
    await expect(control.open()).rejects.toMatchObject({
      code,
      message: `cannot attach: ${why}`,
      hint: expect.stringMatching(hint),
    });
    await control.close();
  },
);

test("is busy with a device while one of its commands is unanswered", async () => {
  const waiting: Array<() => void> = [];
  const { control } = rig((request, kernel) => void waiting.push(() => acknowledge(request, kernel)));
  const first = control.reconfigure({ index: 1, backendIdentifier: "one" });
  const second = control.disconnect({ index: 1, backendIdentifier: "one" });
  expect([control.isBusyWith("one"), control.isBusyWith("two")]).toEqual([true, false]);
  await until("the command is sent", () => waiting.length === 1);
  waiting.shift()?.();
  await first;
  expect(control.isBusyWith("one")).toBe(true);
  await until("the command is sent", () => waiting.length === 1);
  waiting.shift()?.();
  await second;
  expect(control.isBusyWith("one")).toBe(false);
  await control.close();
});

test("a refused command is answered, too", async () => {
  const { control } = rig((request, kernel) =>
    kernel.deliver(ack(request, { errno: constants.errno.EINVAL })),
  );
  await expect(control.disconnect({ index: 1, backendIdentifier: "one" })).rejects.toMatchObject({
    errno: constants.errno.EINVAL,
  });
  expect(control.isBusyWith("one")).toBe(false);
  await control.close();
});

test("hands LINK_DEAD on by index", async () => {
  const { fake, control, events } = rig();
  await control.open();
  const fields = { type: 28, sequence: 0, portId: 0 };
  fake.transports[1]?.deliver(generic(fields, 4, attribute(1, uint(4, 9))));
  await until("the event", () => events.length > 0);
  expect(events).toEqual([9]);
  await control.close();
});
