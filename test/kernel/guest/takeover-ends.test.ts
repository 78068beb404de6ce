/**
 * A device that ends while no worker serves it: detached, unmounted, or disconnected by another program, during a
 * takeover.
 *
 * Waiting reads end, and nothing is left: no device, no record, no journal, no process.
 */
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { NbdNetlink } from "../../../netlink/index.ts";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { guarded, READ_FAILURE_LINES } from "./leftovers.ts";
import {
  allGone,
  ask,
  attach,
  bothWorkersOf,
  cleanUpAfterFailure,
  erofsNbdOk,
  expectFlawless,
  killTogether,
  killUnderLoad,
  run,
  startReader,
  status,
  statuses,
  until,
  watchEvents,
} from "./product.ts";
import { journalFiles, outcomes, PATIENT, useImage, workerSockets } from "./takeover-rig.ts";

const { directory, image } = useImage("takeover-ends", 8 << 20);

const isConfigured = ({ index }: DeviceStatus): boolean => existsSync(`/sys/block/nbd${index}/pid`);

/** Kills every worker of a device's manager, and returns once its takeover has begun: then no worker serves it. */
async function orphan(device: DeviceStatus): Promise<void> {
  const watcher = await watchEvents();
  const begun = watcher.next(
    "the takeover",
    (event) => event.event === "state" && event.state === "taking-over",
  );
  await killTogether(...(await bothWorkersOf(device.managerPid)));
  await begun;
  expect((await status(device.device ?? "")).state).toBe("taking-over");
  void watcher.stop();
}

/** Nothing of a device and its manager is left. */
async function expectNothingLeft(device: DeviceStatus): Promise<void> {
  await until("the device's end", () => !isConfigured(device));
  await allGone([device.managerPid]);
  await until("no record", () => readdirSync("/run/erofs-nbd/devices").length === 0);
  expect(journalFiles()).toEqual([]);
  await until("no worker's socket", () => workerSockets().length === 0);
}

describe("while a takeover is under way", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("a detach ends the device and its waiting reads at once", async () => {
    guard.expectKernelLog(...READ_FAILURE_LINES, /Send (disconnect|control) failed/);
    const device = await attach(...PATIENT, image);
    const watcher = await watchEvents();
    const reader = await startReader(device.device ?? "", image);
    const begun = watcher.next(
      "the takeover",
      (event) => event.event === "state" && event.state === "taking-over",
    );
    await killUnderLoad(device, await bothWorkersOf(device.managerPid));
    await begun;
    const answer = ask("detach", { targets: [{ index: device.index ?? -1 }], all: false, force: true });
    expect(await outcomes(watcher, 1)).toMatchObject([{ result: "failed", level: "takeover" }]);
    // As long as a process has it open, the kernel keeps the node's configuration.
    const report = await reader.stop();
    expect(report.errors + report.mismatches).toBeGreaterThan(0);
    expect((await answer)?.results).toMatchObject([{ device: device.device, error: null }]);
    expect(isConfigured(device)).toBe(false);
    await watcher.stop();
    await expectNothingLeft(device);
  });

  test("a plain umount of a mount ends everything", async () => {
    const mountPoint = join(directory, "mount");
    mkdirSync(mountPoint);
    await erofsNbdOk("mount", image, mountPoint);
    const [device] = await statuses();
    if (device === undefined) throw new Error("nothing is attached");
    await orphan(device);
    expect(await run("umount", [mountPoint])).toMatchObject({ code: 0 });
    await expectNothingLeft(device);
  });

  test("a disconnect by another program ends the device, and its manager releases it", async () => {
    guard.expectKernelLog(/Send disconnect failed/);
    const device = await attach(...PATIENT, image);
    const reader = await startReader(device.device ?? "", image, 2);
    expectFlawless(await reader.stop());
    await orphan(device);
    // What nbd-client -d does.
    const nbd = new NbdNetlink();
    await nbd.disconnect(device.index ?? -1);
    await nbd.close();
    await expectNothingLeft(device);
  });
});
