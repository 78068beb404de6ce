/**
 * A manager that is killed at every step of what it does: no read is lost, nothing is left behind, no command is
 * needed.
 *
 * Each round kills the manager at the first step where none has died yet, until it gets through. The guardian that it
 * leaves starts the next one.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { ControlClient } from "../../../src/control/client.ts";
import { LIMITS } from "../../limits.mjs";
import {
  arm,
  atEveryStep,
  attachHere,
  disarm,
  expectDeaths,
  MOST_STEPS,
  records,
  useDeadlyManager,
} from "./deadly-manager.ts";
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
import { journalFiles, useImage } from "./takeover-rig.ts";

useDeadlyManager();
const { directory, image } = useImage("adoption", 8 << 20);

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
    const deaths = await atEveryStep(image, async (device) => {
      process.kill(workerOf(device), "SIGKILL");
      await untilAsync(
        "the takeover",
        async () => workerOf(await status(device.device ?? "")) !== workerOf(device),
      );
    });
    expectDeaths(deaths, "before settling a journal", "before giving a link to a worker");
  });

  test("of a reconnect: reads wait for its successor, and none is lost", async () => {
    const deaths = await atEveryStep(image, async (device) => {
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
    const deaths = await atEveryStep(image, async () => void (await ask("renew", {})));
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
