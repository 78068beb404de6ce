/** A manager that dies: reads go on without it, the next one adopts what it left, and commands work at once. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  afterFailovers,
  allGone,
  attach,
  bothWorkersOf,
  CLI,
  cleanUpAfterFailure,
  detachAll,
  erofsNbd,
  erofsNbdOk,
  expectFlawless,
  isAlive,
  killTogether,
  killUnderLoad,
  managerPids,
  readsInFlight,
  startReader,
  status,
  until,
  workerOf,
  workersOf,
} from "./product.ts";
import { expectTakeovers, kernelWords, PATIENT, useImage, warm } from "./takeover-rig.ts";

const RUN_DIR = "/run/erofs-nbd";
const { directory, image } = useImage("manager", 8 << 20);

const records = (): string[] => (existsSync(`${RUN_DIR}/devices`) ? readdirSync(`${RUN_DIR}/devices`) : []);

/** Changes an image's path to another file with other bytes. */
function replace(path: string): void {
  writeFileSync(`${path}.new`, readFileSync(image).reverse());
  renameSync(`${path}.new`, path);
}

const uidOf = (pid: number): number =>
  Number(/^Uid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

describe("workers", () => {
  guarded();
  cleanUpAfterFailure();

  test("have no user, group or capability of root, can gain none, and cannot be inspected by others", async () => {
    const device = await attach(image);
    await warm(device.managerPid);
    const workers = workersOf(device.managerPid);
    expect(workers).toHaveLength(2);
    // A spare is there before its code is loaded, which may take root.
    const isReady = (pid: number): boolean => uidOf(pid) !== 0;
    await until("workers that have let go of root", () => workers.every(isReady));
    // Rights are a thread's: a module's own code may run on any.
    const threads = workers.flatMap((pid) =>
      readdirSync(`/proc/${pid}/task`).map((tid) => `/proc/${pid}/task/${tid}`),
    );
    expect(threads.length).toBeGreaterThan(workers.length);
    for (const thread of threads) {
      const text = readFileSync(`${thread}/status`, "utf8");
      const field = (name: string): string =>
        new RegExp(`^${name}:[ \\t]*(.*)$`, "m").exec(text)?.[1]?.trim() ?? "?";
      expect(field("Uid")).toMatch(/^65534\s+65534\s+65534\s+65534$/);
      expect(field("Gid")).toMatch(/^65534\s+65534\s+65534\s+65534$/);
      expect(field("Groups")).toBe("");
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) expect(field(set)).toMatch(/^0+$/);
      expect(field("NoNewPrivs")).toBe("1");
      // Files of a process that is not dumpable belong to root.
      expect(statSync(`${thread}/environ`).uid).toBe(0);
    }
    await detachAll();
  });
});

describe("a manager that dies", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("leaves its workers serving; the next command starts another, and no read fails or waits", async () => {
    const device = await attach(...PATIENT, image);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    await until("reads in flight", () => readsInFlight(device.index ?? -1) > 0);
    await killTogether(device.managerPid);
    const alone = await startReader(device.device ?? "", image, 1);
    expectFlawless(await alone.stop());
    const seen = await erofsNbd("status", "--json");
    expect(seen).toMatchObject({ code: 0 });
    expect(seen.stderr).toContain("1 of 1 links served, going on");
    const after = await status(device.device ?? "");
    expect(after.managerPid).not.toBe(device.managerPid);
    expect(after).toMatchObject({ identifier: device.identifier, state: "serving", links: device.links });
    expect(after.counters).toMatchObject({ takeovers: 0, reconnects: 0, failedFailovers: 0 });
    expect(after.counters.requests).toBeGreaterThan(device.counters.requests);
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    await detachAll();
    expect(records()).toEqual([]);
  });

  test("is succeeded by one that keeps its devices: when the old workers die, their links are taken over", async () => {
    const device = await attach(...PATIENT, image);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    const old = await bothWorkersOf(device.managerPid);
    await killTogether(device.managerPid);
    await erofsNbdOk("status");
    await killUnderLoad(device, [workerOf(device)]);
    const once = await afterFailovers(device.device ?? "", 1);
    expectTakeovers(once, 1);
    const rest = old.filter((pid) => isAlive(pid));
    await killUnderLoad(once, [...new Set([...rest, workerOf(once)])]);
    const twice = await afterFailovers(device.device ?? "", 2);
    expectTakeovers(twice, 2);
    expect(old).not.toContain(workerOf(twice));
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    await detachAll();
  });

  test("three times in a row, under load, loses no read", async () => {
    const device = await attach(...PATIENT, image);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    for (let round = 0; round < 3; round += 1) {
      const { managerPid } = await status(device.device ?? "");
      await until("reads in flight", () => readsInFlight(device.index ?? -1) > 0);
      await killTogether(managerPid);
      await erofsNbdOk("status");
    }
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    const after = await status(device.device ?? "");
    expect(after.counters).toMatchObject({ takeovers: 0, reconnects: 0, failedFailovers: 0 });
    expect(after.links).toEqual(device.links);
    await detachAll();
  });

  test("and whose image was replaced has a successor that serves the attached one", async () => {
    const copy = join(directory, "copy.erofs");
    writeFileSync(copy, readFileSync(image));
    const device = await attach(...PATIENT, copy);
    const reader = await startReader(device.device ?? "", image, 2);
    await killTogether(device.managerPid);
    replace(copy);
    const seen = await erofsNbd("status");
    expect(seen.stderr).toContain("going on");
    await killUnderLoad(device);
    expectTakeovers(await afterFailovers(device.device ?? "", 1), 1);
    expectFlawless(await reader.stop());
    await detachAll();
  });
});

describe("a manager that dies with what it needs", () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("all its workers, makes reads wait for the next manager", async () => {
    const device = await attach(image);
    const reader = await startReader(device.device ?? "", image);
    const victims = await bothWorkersOf(device.managerPid);
    // The manager dies before it can reconnect, and while its workers cannot see that: the spare would exit.
    for (const pid of victims) process.kill(pid, "SIGSTOP");
    process.kill(device.managerPid, "SIGKILL");
    await killUnderLoad(device, victims);
    await allGone([device.managerPid, ...victims]);
    await erofsNbdOk("status");
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.counters).toMatchObject({ takeovers: 0, reconnects: 1, failedFailovers: 0 });
    await detachAll();
  });

  test("the serving worker, makes reads wait for the next manager: the spare has no socket", async () => {
    const device = await attach(image);
    await warm(device.managerPid);
    const reader = await startReader(device.device ?? "", image);
    const victim = workerOf(device);
    process.kill(device.managerPid, "SIGKILL");
    await killUnderLoad(device, [victim]);
    await allGone([device.managerPid, victim]);
    await erofsNbdOk("status");
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.counters).toMatchObject({ takeovers: 0, reconnects: 1, failedFailovers: 0 });
    await detachAll();
  });

  test("its workers and its image, leaves a device that can be detached", async () => {
    const copy = join(directory, "gone.erofs");
    writeFileSync(copy, readFileSync(image));
    const device = await attach(copy);
    const victims = await bothWorkersOf(device.managerPid);
    await killTogether(device.managerPid, ...victims);
    replace(copy);
    const seen = await erofsNbd("status");
    expect(seen.stderr).toContain("is not what was attached");
    expect((await status(device.device ?? "")).identifier).toBe(device.identifier);
    expect(await erofsNbd("detach", copy)).toMatchObject({ code: 0 });
  });
});

describe("a manager that died", () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("does not block commands: attach and detach work at once, and touch only devices of erofs-nbd", async () => {
    const first = await attach(image);
    await killTogether(first.managerPid);
    const second = await attach(image);
    expect(second.index).not.toBe(first.index);
    expect((await status(first.device ?? "")).identifier).toBe(first.identifier);
    await killTogether(second.managerPid);
    expect(await erofsNbd("detach", first.device ?? "")).toMatchObject({ code: 0 });
    expect(await erofsNbd("detach", `${second.index}`)).toMatchObject({ code: 0 });
    await until("no record", () => records().length === 0);
    expect(await erofsNbd("detach", first.device ?? "")).toMatchObject({ code: 3 });
  });

  test("leaves a record of an earlier boot, which is removed with a note", async () => {
    const device = await attach(image);
    const path = join(RUN_DIR, "devices", records()[0] ?? "");
    const record = readFileSync(path, "utf8");
    await detachAll();
    writeFileSync(
      path,
      record.replace(/"bootId": "[^"]+"/, '"bootId": "00000000-0000-0000-0000-000000000000"'),
    );
    const seen = await erofsNbd("status");
    expect(seen).toMatchObject({ code: 0 });
    expect(seen.stderr).toContain("before the last boot");
    expect(records()).toEqual([]);
    expect(device.identifier).toHaveLength(36);
  });

  test("at any instant of an attach leaves nothing that the next command does not find", async () => {
    for (const waitMs of [0, 300, 600, 900, 1200, 1500]) {
      const child = spawn(process.execPath, [CLI, "attach", image], { stdio: "ignore" });
      const closed = once(child, "close");
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      const pid = Number(
        existsSync(`${RUN_DIR}/manager.lock`) ? readFileSync(`${RUN_DIR}/manager.lock`, "utf8") : 0,
      );
      if (pid > 0 && existsSync(`/proc/${pid}`)) process.kill(pid, "SIGKILL");
      await closed;
      const all = await erofsNbd("detach", "--all");
      expect([0, 3]).toContain(all.code);
      await until("no record", () => records().length === 0);
      await until("no device", () => !existsSync("/sys/block/nbd0/pid"));
    }
    await until("the end of every manager", () => managerPids().length === 0);
  });
});
