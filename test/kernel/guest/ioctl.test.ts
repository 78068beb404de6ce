/**
 * The legacy path on a real kernel. A device has one socket for its whole life: the death of a worker costs nothing,
 * and the death of the link costs the device.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { guarded, LINK_DEATH_LINES, READ_FAILURE_LINES } from "./leftovers.ts";
import {
  afterFailovers,
  allGone,
  attach,
  bothWorkersOf,
  cleanUpAfterFailure,
  cutLinks,
  detachAll,
  erofsNbd,
  erofsNbdOk,
  expectFlawless,
  guardiansOf,
  killTogether,
  killUnderLoad,
  readsInFlight,
  run,
  startReader,
  status,
  statusWhen,
  successorOf,
  until,
  workerOf,
} from "./product.ts";
import { expectTakeovers, kernelWords, PATIENT, useImage, warm } from "./takeover-rig.ts";

const { image } = useImage("ioctl", 16 << 20);

describe("a device attached by ioctl", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("attaches and detaches", async () => {
    const device = await attach("--ioctl", image);
    expect(device).toMatchObject({ interface: "ioctl", state: "serving" });
    const reader = await startReader(device.device ?? "", image, 2);
    expectFlawless(await reader.stop());
    await detachAll();
  });

  test("survives its worker, killed under load, three times", async () => {
    const device = await attach("--ioctl", ...PATIENT, image);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    let now = device;
    for (let kill = 1; kill <= 3; kill += 1) {
      await warm(device.managerPid);
      const victim = workerOf(now);
      const onTheWire = await killUnderLoad(now);
      now = await afterFailovers(device.device ?? "", kill);
      expect(now.lastFailover).toMatchObject({
        cause: `worker ${victim} was killed by SIGKILL`,
        strandedReads: onTheWire,
      });
    }
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    expectTakeovers(now, 3);
    await detachAll();
  });

  test("survives both workers at once", async () => {
    const device = await attach("--ioctl", ...PATIENT, image);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    await killUnderLoad(device, await bothWorkersOf(device.managerPid));
    const after = await afterFailovers(device.device ?? "", 1);
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    expectTakeovers(after, 1);
    await detachAll();
  });
});

/** Its reader may have had all its answers before the end: that it ends says that none waits. */
async function expectNothingToRead({ device }: DeviceStatus): Promise<void> {
  const block = [`if=${device}`, "of=/dev/null", "bs=4096", "count=1", "iflag=direct"];
  expect((await run("dd", block)).stderr).not.toContain("1+0 records in");
}

describe("the end of a link attached by ioctl", () => {
  guarded([
    ...LINK_DEATH_LINES,
    ...READ_FAILURE_LINES,
    // A reply that was on its way still comes through, after the kernel has failed its request.
    /^block nbd\d+: Unexpected reply \(\d+\)/,
    // A process that opens it then makes the kernel look for partitions.
    /unable to read (RDB block|partition table)/,
  ]);
  cleanUpAfterFailure();

  test("ends its device, where netlink would lose nothing: reads fail, and status reports it", async () => {
    const device = await attach("--ioctl", image);
    const reader = await startReader(device.device ?? "", image);
    await until("reads on the wire", () => readsInFlight(device.index ?? -1) > 0);
    // The process whose thread is inside NBD_DO_IT: without it the kernel ends the link.
    const client = Number(readFileSync(`/sys/block/nbd${device.index}/pid`, "utf8"));
    process.kill(client, "SIGKILL");
    const after = await statusWhen(device.device ?? "", "the loss", (now) => now.state === "failed");
    expect(after.counters).toMatchObject({ takeovers: 0, reconnects: 0, failedFailovers: 1 });
    expect(after.lastFailover).toMatchObject({ result: "failed" });
    expect(after.lastFailover?.cause).toContain("the ioctl path cannot reconnect, the device is lost");
    await expectNothingToRead(device);
    await reader.stop();
    await detachAll();
    expect(await status(device.device ?? "").catch((error: Error) => error.message)).toContain(
      "not attached",
    );
  });

  test("does not come with its manager, nor with an upgrade: only its worker can serve it", async () => {
    const device = await attach("--ioctl", image);
    const reader = await startReader(device.device ?? "", image);
    process.kill(device.managerPid, "SIGKILL");
    const successor = await successorOf(device.managerPid);
    expect(await status(device.device ?? "")).toMatchObject({ state: "serving", links: device.links });
    await erofsNbdOk("upgrade");
    const after = await status(device.device ?? "");
    expect(after).toMatchObject({ state: "serving", links: device.links });
    expect(after.managerPid).not.toBe(successor);
    expectFlawless(await reader.stop());
    await detachAll();
  });

  test("with manager and workers ends its device, and the next command reports it", async () => {
    const device = await attach("--ioctl", image);
    const reader = await startReader(device.device ?? "", image);
    const workers = await bothWorkersOf(device.managerPid);
    await until("a guardian", () => guardiansOf(device.managerPid).length === 1);
    // Stopped first: the spare would leave on seeing its manager gone.
    for (const pid of workers) process.kill(pid, "SIGSTOP");
    await killTogether(...guardiansOf(device.managerPid), device.managerPid);
    await killUnderLoad(device, workers);
    await allGone(workers);
    await expectNothingToRead(device);
    await reader.stop();
    const seen = await erofsNbd("status");
    expect(seen).toMatchObject({ code: 0 });
    expect(seen.stderr).toContain("no longer attached");
  });

  test("cannot be requested, because nothing could reconnect it", async () => {
    const device = await attach("--ioctl", image);
    await expect(cutLinks(device.index ?? -1)).rejects.toThrow("it is attached by ioctl");
    await detachAll();
  });
});
