/**
 * A manager that is killed at every step of what it does: no read is lost, nothing is left behind, no command is needed.
 *
 * Each round kills the manager at the first step where none has died yet, until it gets through. The guardian that it
 * leaves starts the next one.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ControlClient } from "../../../src/control/client.ts";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { LIMITS } from "../../limits.mjs";
import { guarded, LINK_DEATH_LINES, READ_FAILURE_LINES } from "./leftovers.ts";
import {
  allWorkers,
  ask,
  attach,
  CLI,
  cleanUpAfterFailure,
  detachAll,
  erofsNbd,
  expectFlawless,
  guardiansOf,
  killTogether,
  managerPids,
  reach,
  readsInFlight,
  run,
  startReader,
  status,
  statuses,
  statusWhen,
  successorOf,
  until,
  untilAsync,
  workerOf,
} from "./product.ts";
import { attachOver, journalFiles, useImage } from "./takeover-rig.ts";

const DEADLY = fileURLToPath(new URL("../../helpers/processes/deadly-manager.mjs", import.meta.url));
const STEPS = "/run/deadly-steps";
const DIED = `${STEPS}.died`;
/** More than any of these takes: an end to the rounds when something never gets through. */
const MOST_STEPS = 30;
let round = 0;
const RECORDS = "/run/erofs-nbd/devices";
const { directory, image } = useImage("adoption", 8 << 20);

beforeAll(() => {
  process.env["NODE_OPTIONS"] = `--import ${DEADLY}`;
  process.env["DEADLY_STEPS"] = STEPS;
});
afterAll(() => {
  delete process.env["NODE_OPTIONS"];
  delete process.env["DEADLY_STEPS"];
});

/** From now on the manager dies at the first step that is not among these. */
function arm(survived: readonly string[]): void {
  rmSync(DIED, { force: true });
  round += 1;
  writeFileSync(`${STEPS}.new`, JSON.stringify({ round, survived }));
  renameSync(`${STEPS}.new`, STEPS);
}

/** Where it died; undefined: it got through. */
function disarm(): string | undefined {
  rmSync(STEPS, { force: true });
  return existsSync(DIED) ? readFileSync(DIED, "utf8") : undefined;
}

/** Whole ones: one that is just being written has another name until then. */
const records = (): string[] =>
  existsSync(RECORDS) ? readdirSync(RECORDS).filter((name) => name.endsWith(".json")) : [];

/** Does something repeatedly while readers read, and kills the manager at another step each time. Returns where. */
async function atEveryStep(act: (device: DeviceStatus) => Promise<void>): Promise<string[]> {
  const deaths: string[] = [];
  const first = await attach(image);
  const node = first.device ?? "";
  const reader = await startReader(node, image, 4);
  for (;;) {
    expect(deaths.length).toBeLessThan(MOST_STEPS);
    const device = await status(node);
    // Some of them another manager has started.
    await until("a warm spare", () => allWorkers().length >= 2);
    await until("reads on the wire", () => readsInFlight(device.index ?? -1) > 0);
    arm(deaths);
    await act(device).catch(() => {});
    // The step may come after the act has been answered: nothing is under way any more once the device serves again.
    await untilAsync("the end of it", async () => existsSync(DIED) || (await isServing(node)));
    const death = disarm();
    if (death === undefined) break;
    deaths.push(death);
    await successorOf(device.managerPid);
    await untilAsync("the device", () => isServing(node));
    // What each death cost, for the reader of the output.
    const { counters, lastFailover } = await status(node);
    const found =
      counters.reconnects > device.counters.reconnects ? "reconnected" : "served on, or taken over";
    process.stderr.write(`${death}: ${found}, last stall ${lastFailover?.stallMs ?? 0} ms\n`);
  }
  expectFlawless(await reader.stop());
  const after = await status(node);
  expect(after).toMatchObject({
    identifier: first.identifier,
    counters: { failedFailovers: 0, readErrors: 0 },
  });
  await detachAll();
  expect(records()).toEqual([]);
  expect(journalFiles()).toEqual([]);
  return deaths;
}

const isServing = async (node: string): Promise<boolean> =>
  (await statuses().catch(() => [])).some(({ device, state }) => device === node && state === "serving");

/** It died at these instants, among others. */
function expectDeaths(deaths: readonly string[], ...names: readonly string[]): void {
  const all = deaths.join("; ");
  for (const name of names) expect(all).toContain(name);
}

/** An attach without a command's start, which would be most of the time here. Starts the manager if need be. */
async function attachHere(path: string): Promise<DeviceStatus> {
  const client = await reach();
  try {
    return await attachOver(client, path);
  } finally {
    client.close();
  }
}

describe("a manager that is killed at every step", { timeout: LIMITS.longTestMs }, () => {
  const guard = guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("of an attach: the next command finds a whole device or none", async () => {
    // The kernel is still looking for partitions when its device goes again.
    guard.expectKernelLog(...READ_FAILURE_LINES, /unable to read (RDB block|partition table)/);
    const deaths: string[] = [];
    // The manager that found the device of one round dies in the next: starting another would be most of the time here.
    let next: ControlClient | undefined;
    for (;;) {
      expect(deaths.length).toBeLessThan(MOST_STEPS);
      arm(deaths);
      const error = await attachHere(image).then(
        () => undefined,
        (thrown: Error) => thrown,
      );
      const death = disarm();
      next?.close();
      if (death === undefined) {
        expect(error).toBeUndefined();
        break;
      }
      deaths.push(death);
      expect(error?.message).toContain("the manager went away");
      // Adopted whole or gone: nothing in between, and no record without a device.
      next = await reach();
      const { devices } = await next.request("status", { target: null });
      expect(records()).toHaveLength(devices.length);
      for (const { state } of devices) expect(["serving", "reconnecting"]).toContain(state);
      await next.request("detach", { targets: [], all: true, force: false });
      expect(records()).toEqual([]);
      // A failover that the detach has ended lets go of its fresh link a moment later.
      await until("the end of every link", () => journalFiles().length === 0);
    }
    expectDeaths(deaths, "after writing a record", "before CONNECT", "after CONNECT");
    await detachAll();
    await until("the end of all", () => managerPids().length === 0);
  });

  test("of a takeover: reads wait for its successor, and none is lost", async () => {
    const deaths = await atEveryStep(async (device) => {
      process.kill(workerOf(device), "SIGKILL");
      await untilAsync(
        "the takeover",
        async () => workerOf(await status(device.device ?? "")) !== workerOf(device),
      );
    });
    expectDeaths(deaths, "before settling a journal", "before giving a link to a worker");
  });

  test("of a reconnect: reads wait for its successor, and none is lost", async () => {
    const deaths = await atEveryStep(async (device) => {
      const { index, links } = device;
      await ask("cutLinks", { index: index ?? -1 });
      await untilAsync(
        "the fresh link",
        async () => (await status(device.device ?? "")).links[0]?.generation !== links[0]?.generation,
      );
    });
    expectDeaths(deaths, "before RECONFIGURE", "after RECONFIGURE");
  });

  test("of an upgrade of its workers: reads wait for its successor, and none is lost", async () => {
    const deaths = await atEveryStep(async () => void (await ask("renew", {})));
    expectDeaths(deaths, "after taking a link from a worker", "before giving a link to a worker");
  });

  test("of a detach: the device, its record and its journal are removed", async () => {
    const deaths: string[] = [];
    // As above.
    let next: ControlClient | undefined;
    for (;;) {
      expect(deaths.length).toBeLessThan(MOST_STEPS);
      await attachHere(image);
      next?.close();
      arm(deaths);
      await ask("detach", { targets: [], all: true, force: false }).catch(() => {});
      const death = disarm();
      next = await reach();
      await next.request("detach", { targets: [], all: true, force: false });
      expect((await next.request("status", { target: null })).devices).toEqual([]);
      await until("the end of every link", () => journalFiles().length === 0);
      expect(records()).toEqual([]);
      if (death === undefined) break;
      deaths.push(death);
    }
    next.close();
    await until("the end of all", () => managerPids().length === 0);
    expectDeaths(deaths, "before DISCONNECT", "after DISCONNECT");
  });

  test("together with its guardian: the next command adopts the device", async () => {
    const device = await attach(join(directory, "image.erofs"));
    const reader = await startReader(device.device ?? "", image, 4);
    let guardians: number[] = [];
    await until("the guardian", () => {
      guardians = guardiansOf(device.managerPid);
      return guardians.length === 1;
    });
    await killTogether(...guardians, device.managerPid);
    const seen = await erofsNbd("status", "--json");
    expect(seen.stderr).toContain("going on");
    expectFlawless(await reader.stop());
    await detachAll();
  });
});

describe("a manager that is killed while a mount is made", () => {
  const guard = guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();
  const place = join(directory, "mnt");
  const bin = join(directory, "bin");
  const [begun, go] = [join(directory, "begun"), join(directory, "go")];

  /** `erofs-nbd mount` whose mount(8) waits for a word before it begins. */
  function slowMount(): ChildProcess {
    for (const path of [begun, go]) rmSync(path, { force: true });
    for (const path of [place, bin]) mkdirSync(path, { recursive: true });
    const waiting = `: > ${begun}\nwhile [ ! -e ${go} ]; do sleep 0.1; done\nPATH=$REAL_PATH exec mount "$@"\n`;
    writeFileSync(join(bin, "mount"), `#!/bin/sh\n${waiting}`, { mode: 0o755 });
    const env = { ...process.env, REAL_PATH: process.env["PATH"], PATH: `${bin}:${process.env["PATH"]}` };
    return spawn(process.execPath, [CLI, "mount", image, place], {
      stdio: ["ignore", "ignore", "inherit"],
      env,
    });
  }

  test("lets the command go on with its successor, and umount ends the device", async () => {
    const mounting = slowMount();
    const ended = once(mounting, "exit");
    await until("mount(8)", () => existsSync(begun));
    const [{ managerPid = -1 } = {}] = await statuses();
    process.kill(managerPid, "SIGKILL");
    await successorOf(managerPid);
    writeFileSync(go, "");
    expect(await ended).toEqual([0, null]);
    expect(await statuses()).toMatchObject([{ state: "serving", mountPoints: [place] }]);
    expect(await run("umount", [place])).toMatchObject({ code: 0 });
    await until("the end of all", () => managerPids().length === 0 && allWorkers().length === 0);
    expect(records()).toEqual([]);
  });

  test("together with the command, has a successor that detaches the device", async () => {
    // mount(8) outlives them, and tries in the end.
    guard.expectKernelLog(/cannot find valid erofs superblock/);
    const mounting = slowMount();
    await until("mount(8)", () => existsSync(begun));
    const [{ managerPid = -1 } = {}] = await statuses();
    await killTogether(mounting.pid ?? -1, managerPid);
    await successorOf(managerPid);
    await until("the end of all", () => managerPids().length === 0 && allWorkers().length === 0);
    expect(records()).toEqual([]);
    writeFileSync(go, "");
    await until(
      "mount(8) to give up",
      () => !readdirSync("/proc").some((pid) => commandOf(pid).includes(`${bin}/mount`)),
    );
  });
});

const commandOf = (pid: string): string => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
};

describe("managers that are killed one after the other", () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("the second as soon as it has the run directory, are followed by a third one without a command", async () => {
    const device = await attach(image);
    const reader = await startReader(device.device ?? "", image, 4);
    await until("the guardian", () => guardiansOf(device.managerPid).length === 1);
    process.kill(device.managerPid, "SIGKILL");
    let second = 0;
    await until("the second manager", () => {
      second = Number(readFileSync("/run/erofs-nbd/manager.lock", "utf8"));
      return second > 0 && second !== device.managerPid && guardiansOf(second).length === 1;
    });
    process.kill(second, "SIGKILL");
    await successorOf(second);
    expect((await status(device.device ?? "")).counters).toMatchObject({ reconnects: 0, failedFailovers: 0 });
    expectFlawless(await reader.stop());
    await detachAll();
  });
});

describe("everything that is killed at once", () => {
  guarded([...LINK_DEATH_LINES, ...READ_FAILURE_LINES]);
  cleanUpAfterFailure();

  test("for longer than reads are held fails the reads, and the next command revives the device", async () => {
    const device = await attach("--dead-timeout", "2", image);
    const node = device.device ?? "";
    await until("the guardian", () => guardiansOf(device.managerPid).length === 1);
    await killTogether(...guardiansOf(device.managerPid), device.managerPid, ...allWorkers());
    const words = [`if=${node}`, "of=/dev/null", "bs=4096", "count=1", "iflag=direct"];
    const failed = await run("dd", words, { LC_ALL: "C" });
    expect(failed).toMatchObject({ code: 1, stderr: expect.stringContaining("Input/output error") });
    expect((await erofsNbd("status")).stderr).toContain("taken over");
    const after = await statusWhen(node, "the revival", ({ state }) => state === "serving");
    expect(after.identifier).toBe(device.identifier);
    // Where workers take longer to start than reads are held, it has failed once more before.
    const { reconnects, failedFailovers, takeovers } = after.counters;
    expect({ mended: reconnects + failedFailovers, takeovers }).toEqual({ mended: 1, takeovers: 0 });
    const reader = await startReader(node, image, 4);
    expectFlawless(await reader.stop());
    await detachAll();
  });
});
