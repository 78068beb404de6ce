/** adoption.ts: which devices, links and workers of a former manager are continued, closed, ended or left alone. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
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
  late,
  leave,
  records,
  worker,
} from "./adoption-rig.ts";

describe("a netlink device", () => {
  test("that the kernel still has: old workers are killed, the image is opened again, it is taken over", async () => {
    const [one, two] = [await worker(), await worker()];
    await leave("a", [one, two]);
    kernel.devices.set("a", 4);
    const notes = await adopt();
    expect(adopted).toMatchObject([{ index: 4, record: { identifier: "a" } }]);
    expect([one, two].some(isAlive)).toBe(false);
    expect(kept).toEqual([]);
    expect(records()).toEqual(["a.json"]);
    expect(notes).toEqual([
      `nbd4 (${join(directory, "a.image")}) was left by manager ${process.pid}, which is dead: taken over`,
    ]);
  });

  test("with waiting reads is taken over before the others", async () => {
    for (const [at, name] of ["a", "b", "c"].entries()) {
      await leave(name, []);
      kernel.devices.set(name, at);
    }
    kernel.waiting.set(1, 5);
    kernel.waiting.set(2, 1);
    await adopt();
    expect(adopted.map(({ index }) => index)).toEqual([1, 2, 0]);
  });

  test("that the kernel no longer has: the record is removed, its workers are not killed", async () => {
    const one = await worker();
    const path = await leave("a", [one]);
    expect(await adopt()).toEqual([`${path} is no longer attached: its record is removed`]);
    expect(records()).toEqual([]);
    expect(adopted).toEqual([]);
    expect(isAlive(one)).toBe(true);
  });

  test("of another program, without a record, is not touched", async () => {
    kernel.devices.set("another program's", 0);
    expect(await adopt()).toEqual([]);
    expect([adopted, kept, kernel.disconnected]).toEqual([[], [], []]);
  });

  test("whose workers have ended, with other processes at their pids: no process is killed", async () => {
    const innocent = await worker();
    await leave("a", [
      { pid: 2 ** 30, startTime: "1" },
      { ...innocent, startTime: `${Number(innocent.startTime) - 1}` },
    ]);
    kernel.devices.set("a", 0);
    await adopt();
    expect(adoptedNames()).toEqual(["a"]);
    expect(isAlive(innocent)).toBe(true);
  });

  test("of a former boot: the record is removed, even if a device has its identifier now", async () => {
    await leave("a", []);
    const file = join(directory, "a.json");
    writeFileSync(file, readFileSync(file, "utf8").replace(/"bootId": "[^"]*"/, '"bootId": "former"'));
    kernel.devices.set("a", 0);
    expect(await adopt()).toEqual([
      `${join(directory, "a.image")} was attached before the last boot: its record is removed`,
    ]);
    expect([records(), adopted, kept]).toEqual([[], [], []]);
  });

  test("is taken over in spite of an invalid record, which is reported and left alone", async () => {
    writeFileSync(join(directory, "future.json"), "{}");
    await leave("a", []);
    kernel.devices.set("a", 0);
    expect((await adopt())[0]).toBe(
      `${join(directory, "future.json")} is not a record of a known version: left alone`,
    );
    expect(adoptedNames()).toEqual(["a"]);
    expect(records()).toEqual(["a.json", "future.json"]);
  });
});

describe("a device that cannot be continued", () => {
  const refusal = new Error("cannot read a journal: it was made by another version");
  const refuse = { adopt: async () => Promise.reject(refusal) };

  test("because a journal was made by another version is kept: its worker serves on, and its image is opened", async () => {
    const one = await worker();
    const path = await leave("a", [one]);
    kernel.devices.set("a", 2);
    const link = found("a", one.pid);
    const notes = await adopt([link], [one.pid], [], refuse);
    close(link.imageFd);
    expect(notes.at(-1)).toBe(`cannot continue nbd2 (${path}): ${refusal}`);
    expect(isAlive(one)).toBe(true);
    const device = kept[0] as LeftoverDevice;
    expect([keptNames(), device.state]).toEqual([["a"], "serving"]);
    expect(device.describeLinks()).toMatchObject([{ workerPid: one.pid, state: "up" }]);
    process.kill(one.pid, "SIGKILL");
    await until("stalled", () => device.state === "stalled");
    expect(device.stalledReason).toBe(`${refusal.message}; hand the image in: erofs-nbd attach IMAGE`);
    // The manager continues it with this one (late-image.ts).
    expect(late).toMatchObject([{ device }]);
    const image = await late[0]?.opening.result;
    expect(image).toMatchObject({ spec: { path } });
    if (image !== undefined && !("why" in image)) close(image.fd);
  });

  test("without a worker is kept, with the reason", async () => {
    await leave("a", []);
    kernel.devices.set("a", 2);
    await adopt([], [], [], refuse);
    expect(kept[0]).toMatchObject({ state: "stalled", isAwaitingImage: true });
    expect(kept[0]?.stalledReason).toContain(refusal.message);
    expect(late).toEqual([]);
  });
});

describe("a link without a record", () => {
  test("of a device that was never connected is closed", async () => {
    const link = found("nothing", 1);
    await adopt([link]);
    close(link.imageFd);
    expect(link.fates).toEqual(["closed"]);
  });

  test("of a device that exists, whose record is invalid: it is left to its worker", async () => {
    const link = found("a", 1);
    await leave("a", []);
    const file = join(directory, "a.json");
    writeFileSync(file, readFileSync(file, "utf8").replace(/"version": 1/, '"version": 2'));
    kernel.devices.set("a", 3);
    expect((await adopt([link])).join("\n")).toContain(
      "nbd3 is served by worker 1 and has no record: left alone",
    );
    close(link.imageFd);
    expect(link.fates).toEqual(["left"]);
    expect(records()).toEqual(["a.json"]);
  });
});

describe("a worker that does not answer", () => {
  test("is killed even if no record names it, and even if its device has another link", async () => {
    const [answers, hangs] = [await worker(), await worker()];
    await leave("a", [answers], { connections: 2 });
    kernel.devices.set("a", 1);
    const link = found("a", answers.pid);
    await adopt([link], [answers.pid], [hangs]);
    expect(adopted).toMatchObject([{ links: [link] }]);
    expect([answers, hangs].map(isAlive)).toEqual([true, false]);
  });

  test("is spared where it may serve a device that no other worker could serve", async () => {
    const one = await worker();
    rmSync(await leave("changed", [one]));
    kernel.devices.set("changed", 1);
    await adopt([], [], [one]);
    expect(isAlive(one)).toBe(true);
  });
});

describe("an ioctl device", () => {
  test("whose process lives is kept, and so are its workers and the devices that share them", async () => {
    const [client, one, two] = [await worker(), await worker(), await worker()];
    await leave("old way", [one], { interface: "ioctl", client, index: 1 });
    kernel.threads.set(1, client.pid);
    await leave("shares its worker", [one, two]);
    kernel.devices.set("shares its worker", 2);
    await adopt();
    expect(keptNames()).toEqual(["old way", "shares its worker"]);
    expect([client, one, two].every(isAlive)).toBe(true);
    expect(adopted).toEqual([]);
  });

  test("whose process has ended, or whose index is used by another program: the record is removed", async () => {
    const [client, one] = [await worker(), await worker()];
    await leave("gone", [one], { interface: "ioctl", client: { pid: 2 ** 30, startTime: "1" }, index: 1 });
    await leave("index taken", [one], { interface: "ioctl", client, index: 2 });
    kernel.threads.set(2, client.pid + 1);
    await leave("never connected", [one], { interface: "ioctl", client: null, index: null });
    await adopt();
    expect([records(), kept, adopted]).toEqual([[], [], []]);
    expect([client, one].every(isAlive)).toBe(true);
  });
});
