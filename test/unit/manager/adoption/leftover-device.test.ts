/** Adoption of devices whose image is not what was attached, and leftover-device.ts. */
import {
  appendFileSync,
  chmodSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { LeftoverDevice } from "../../../../src/manager/adoption/leftover-device.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { isAlive } from "../../../../src/sys/process-identity.ts";
import { until } from "../../../helpers/until.ts";
import {
  adopt,
  adopted,
  adoptedNames,
  directory,
  found,
  kept,
  keptNames,
  kernel,
  leave,
  worker,
} from "./adoption-rig.ts";

describe("an image that is not what was attached", () => {
  const ways: Record<string, [spoil: (path: string) => void, why: RegExp]> = {
    missing: [(path) => rmSync(path), /there is no such file/],
    replaced: [
      (path) => {
        writeFileSync(`${path}.new`, "x".repeat(4096));
        renameSync(`${path}.new`, path);
      },
      /it was replaced by another file/,
    ],
    grown: [(path) => appendFileSync(path, "more"), /its size changed from 4096 to 4100 bytes/],
    truncated: [(path) => writeFileSync(path, "short"), /it was truncated from 4096 to 5 bytes/],
  };

  for (const [name, [spoil, why]] of Object.entries(ways)) {
    test(`${name}: its worker, which has the right file open, serves on; it can be detached`, async () => {
      const one = await worker();
      spoil(await leave("a", [one]));
      kernel.devices.set("a", 2);
      const notes = await adopt();
      expect(notes.join("\n")).toMatch(why);
      expect(notes.at(-1)).toContain(
        "its old worker, if any, serves on; it goes on when it gets it back (erofs-nbd attach IMAGE), or detach it",
      );
      expect(isAlive(one)).toBe(true);
      expect(adopted).toEqual([]);
      expect(kept[0]?.describeLinks()).toMatchObject([{ workerPid: one.pid, state: "up" }]);
      const released = new Promise((resolve) => kept[0]?.once("released", resolve));
      await kept[0]?.detach();
      expect(await released).toBe("detached");
      expect(kernel.disconnected).toEqual([2]);
      expect(kept[0]?.state).toBe("detached");
    });
  }

  test("without a worker the device is stalled until it gets its image, and says why", async () => {
    const one = await worker();
    const path = await leave("a", [one]);
    rmSync(path);
    kernel.devices.set("a", 2);
    await adopt();
    const device = kept[0] as LeftoverDevice;
    expect([device.state, device.stalledReason, device.isAwaitingImage]).toEqual(["serving", null, false]);
    const stalled = new Promise((resolve) => device.once("stalled", resolve));
    process.kill(one.pid, "SIGKILL");
    const reason = `cannot open image ${path}: there is no such file; hand the image in: erofs-nbd attach IMAGE`;
    expect(await stalled).toBe(reason);
    expect([device.state, device.stalledReason, device.isAwaitingImage]).toEqual(["stalled", reason, true]);
    // The same from the start, where its worker died before the manager came.
    await adopt();
    expect(kept[1]).toMatchObject({ state: "stalled", stalledReason: reason, isAwaitingImage: true });
    expect((kept[1] as LeftoverDevice).leave()).toMatchObject({ identifier: "a" });
    kept.pop();
  });

  test("that was touched, so that it may have been written and its time set back: the same", async () => {
    const path = await leave("a", []);
    const { atime, mtime } = statSync(path);
    // The kernel's clock for file times ticks every few milliseconds.
    const { ctimeNs } = statSync(path, { bigint: true });
    while (statSync(path, { bigint: true }).ctimeNs === ctimeNs) chmodSync(path, 0o600);
    kernel.devices.set("a", 2);
    await adopt();
    expect(statSync(path)).toMatchObject({ atime, mtime });
    expect(adopted).toEqual([]);
    expect(kept[0]?.stalledReason).toBe(
      `${path} may not be what was attached: it was touched after the attach, by a rename, chmod or link, ` +
        "or by a write whose time was set back; if its bytes are the same, hand it in: erofs-nbd attach IMAGE",
    );
  });

  test("that a worker of a former manager does not have open: that link is closed", async () => {
    const one = await worker();
    const link = { ...found("a", one.pid), imageFd: openSync("/dev/null", "r") };
    await leave("a", [one]);
    kernel.devices.set("a", 1);
    const notes = await adopt([link], [one.pid]);
    expect(notes[0]).toMatch(/^worker \d+ serves .*a\.image from another file: its link is closed$/);
    expect(link.fates).toEqual(["closed"]);
    expect(adopted).toMatchObject([{ links: [] }]);
    close(link.imageFd);
  });

  test("that was handed in as a descriptor is not opened by its path", async () => {
    const path = await leave("a", []);
    const file = join(directory, "a.json");
    writeFileSync(file, readFileSync(file, "utf8").replace('"path":', '"isHandedIn": true, "path":'));
    kernel.devices.set("a", 2);
    await adopt();
    expect(adopted).toEqual([]);
    expect(kept[0]?.stalledReason).toContain(`descriptor:${path} was handed in as a descriptor`);
  });

  test("a device that shares a worker with it keeps that worker, and so on; others are taken over", async () => {
    const [one, two, three, four] = [await worker(), await worker(), await worker(), await worker()];
    rmSync(await leave("changed", [one]));
    await leave("shares one", [one, two]);
    await leave("shares two", [two, three]);
    await leave("apart", [four]);
    for (const [at, name] of ["changed", "shares one", "shares two", "apart"].entries())
      kernel.devices.set(name, at);
    await adopt();
    expect(adoptedNames()).toEqual(["apart"]);
    expect(keptNames()).toEqual(["changed", "shares one", "shares two"]);
    expect([one, two, three, four].map(isAlive)).toEqual([true, true, true, false]);
  });
});

describe("a leftover device", () => {
  test("that ends by itself is noticed and released", async () => {
    rmSync(await leave("a", []));
    kernel.devices.set("a", 2);
    await adopt();
    const released: string[] = [];
    kept[0]?.on("released", (why) => released.push(why));
    kernel.devices.clear();
    await until("the release", () => released.length > 0);
    expect(released).toEqual(["it ended while no manager had it"]);
  });

  test("is not shown as served by a worker of another device", async () => {
    const [own, other] = [await worker(), await worker()];
    rmSync(await leave("a", [own, other]));
    kernel.devices.set("a", 2);
    await adopt([], [other.pid]);
    expect(kept[0]?.describeLinks()).toMatchObject([{ workerPid: own.pid }]);
    process.kill(own.pid, "SIGKILL");
    await until("stalled", () => kept[0]?.state === "stalled");
    expect(isAlive(other)).toBe(true);
  });

  test("by ioctl whose index another program uses by now is not disconnected", async () => {
    const client = await worker();
    await leave("a", [await worker()], { interface: "ioctl", client, index: 1 });
    kernel.threads.set(1, client.pid);
    await adopt();
    kernel.threads.set(1, client.pid + 1);
    await kept[0]?.detach();
    expect(kept[0]?.state).toBe("detached");
    expect(isAlive(client)).toBe(true);
  });

  test("without a worker that an image cannot help has failed, and can still be detached", async () => {
    const one = await worker();
    const image = {
      type: "module",
      path: "/nowhere.mjs",
      options: null,
      sizeBytes: 4096,
      identity: null,
    } as const;
    await leave("a", [one], { image });
    kernel.devices.set("a", 2);
    await adopt();
    const said: string[] = [];
    kept[0]?.on("stalled", (why) => said.push(why));
    process.kill(one.pid, "SIGKILL");
    await until("failed", () => kept[0]?.state === "failed");
    expect(said).toEqual(["its worker died, and its image is no longer what was attached: detach it"]);
    expect(kept[0]?.describeLinks()).toEqual([]);
  });

  test("whose DISCONNECT is refused stays as it was, and can be detached later", async () => {
    rmSync(await leave("a", [await worker()]));
    kernel.devices.set("a", 2);
    await adopt();
    const [leftover] = kept;
    const disconnect = kernel.disconnected.push;
    kernel.disconnected.push = () => {
      throw new Error("EPERM");
    };
    await expect(leftover?.detach()).rejects.toThrow("EPERM");
    expect(leftover?.state).toBe("serving");
    kernel.disconnected.push = disconnect;
    await leftover?.detach();
    expect(leftover?.state).toBe("detached");
  });
});
