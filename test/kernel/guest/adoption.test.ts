/**
 * A manager that is killed while a mount is made, right after another one, or together with all workers: the device
 * goes on, and nothing is left behind. adoption-steps.test.ts kills a manager at every step of what it does.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { guarded, LINK_DEATH_LINES, READ_FAILURE_LINES } from "./leftovers.ts";
import {
  allWorkers,
  attach,
  CLI,
  cleanUpAfterFailure,
  detachAll,
  erofsNbd,
  expectFlawless,
  guardiansOf,
  killTogether,
  managerPids,
  run,
  startReader,
  status,
  statuses,
  statusWhen,
  successorOf,
  until,
} from "./product.ts";
import { recordFiles, useImage } from "./takeover-rig.ts";

const { directory, image } = useImage("adoption", 8 << 20);

/** The command line of a process, empty when it has ended. */
const commandOf = (pid: string): string => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
};

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
    expect(recordFiles()).toEqual([]);
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
    expect(recordFiles()).toEqual([]);
    writeFileSync(go, "");
    await until(
      "mount(8) to give up",
      () => !readdirSync("/proc").some((pid) => commandOf(pid).includes(`${bin}/mount`)),
    );
  });
});

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
