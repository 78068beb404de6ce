/**
 * Every bad input to the command line on a real kernel: its message, its exit code, and nothing left behind.
 *
 * Runs inside a guest (or with --host); mounts are in cli-mount.test.ts, failovers elsewhere.
 */
import { execFileSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { cliFixture, expectNothingAttached, expectRefusal, RUN_DIR, start } from "./cli-fixture.ts";
import { guarded } from "./leftovers.ts";
import { attach, CLI, detachAll, erofsNbd, erofsNbdOk, managerPids, run, status, until } from "./product.ts";

const SERIES = process.env["EROFS_NBD_LAB_KERNEL"];
const NOBODY = 65_534;
const files = cliFixture();

describe("refused before a manager is started", () => {
  guarded();

  test.each([
    ["missing", "attach", 1, /there is no such file/],
    ["empty", "attach", 1, /it is empty/],
    ["tree", "attach", 1, /it is a directory/],
    ["truncated.erofs", "attach", 1, /truncated.* promises \d+ bytes .* it has 8192/],
    ["raw", "mount", 1, /it is not an EROFS image/],
    ["truncated.erofs", "mount", 1, /truncated/],
  ] as const)("%s as the image of %s", async (name, command, code, message) => {
    const words = command === "mount" ? [files.mountPoint] : [];
    expectRefusal(await erofsNbd(command, files.at(name), ...words), code, message);
    await expectNothingAttached();
  });

  test.each([
    [["--connections", "12abc"], /--connections '12abc': expected an integer from 1 to 64/],
    [["--timeout", "1.5"], /--timeout '1\.5': expected an integer/],
    [["--io-timeout", "-1"], /--io-timeout '-1': expected an integer/],
    [["--block-size", "1000"], /--block-size '1000': expected a power of two/],
    [["--device", "/dev/sda"], /--device '\/dev\/sda': expected an nbd device/],
    [["--device", "9999999"], /--device '9999999': expected an index from 0 to/],
  ])("attach %j", async (words, message) => {
    expectRefusal(await erofsNbd("attach", ...words, files.image), 1, message);
    await expectNothingAttached();
  });

  test("a mount point that does not exist, and one that is a file", async () => {
    expectRefusal(await erofsNbd("mount", files.image, files.at("nowhere")), 1, /there is no directory/);
    expectRefusal(await erofsNbd("mount", files.image, files.image), 1, /is not a directory/);
    await expectNothingAttached();
  });

  test("a user who is not root", async () => {
    // In a user namespace that maps no user: no privilege, and files stay as readable as they are.
    expectRefusal(
      await start(["attach", files.image], ["unshare", "--user"]).ended,
      1,
      /must be run as root/,
    );
    await expectNothingAttached();
  });

  test("detach, umount and status of what is not attached", async () => {
    expectRefusal(await erofsNbd("detach", "nbd5"), 3, /nbd5: it is not attached/);
    expectRefusal(await erofsNbd("detach", files.image), 3, /it is not attached/);
    expectRefusal(await erofsNbd("umount", files.mountPoint), 3, /no nbd device is mounted there/);
    expectRefusal(await erofsNbd("status", "nbd5"), 3, /nbd5: it is not attached/);
    expect(await erofsNbd("status", "--json")).toMatchObject({ code: 0, stdout: "[]\n" });
    await expectNothingAttached();
  });
});

describe("refused by the manager or the kernel", () => {
  const guard = guarded();

  test("a run directory that cannot be written or belongs to another user", async () => {
    const readOnly = files.at("read-only");
    mkdirSync(readOnly);
    execFileSync("mount", ["-t", "tmpfs", "-o", "ro,mode=0700", "none", readOnly]);
    try {
      expectRefusal(
        await erofsNbd("--run-dir", readOnly, "attach", files.image),
        1,
        /cannot use run directory .*: its file system is read-only/,
      );
    } finally {
      execFileSync("umount", [readOnly]);
    }
    expectRefusal(
      await erofsNbd("--run-dir", "/proc/x", "attach", files.image),
      1,
      /cannot use run directory \/proc\/x: \/proc allows no such entry/,
    );
    mkdirSync(files.at("theirs"));
    execFileSync("chown", [`${NOBODY}`, files.at("theirs")]);
    expectRefusal(
      await erofsNbd("--run-dir", files.at("theirs"), "attach", files.image),
      1,
      /belongs to another user/,
    );
  });

  test.runIf(SERIES !== undefined)("no nbd driver", async () => {
    const helper = readFileSync("/proc/sys/kernel/modprobe", "utf8");
    // Newer kernels load the driver when its family is asked for.
    writeFileSync("/proc/sys/kernel/modprobe", "/bin/false\n");
    execFileSync("rmmod", ["nbd"]);
    try {
      const result = await erofsNbd("attach", files.image);
      expectRefusal(result, 2, /the kernel has no nbd driver/);
      expect(result.stderr).toMatch(/^hint: .*modprobe nbd/m);
      const doctor = await erofsNbd("doctor");
      expect(doctor.stdout).toMatch(/^warn +nbd driver +not loaded, but the module is installed$/m);
      expect(existsSync("/sys/module/nbd")).toBe(false);
      await expectNothingAttached();
    } finally {
      execFileSync("modprobe", ["nbd"]);
      writeFileSync("/proc/sys/kernel/modprobe", helper);
    }
  });

  test.runIf(SERIES === "6.1")("a driver that netlink does not reach", async () => {
    const inside = (...args: string[]) => run("unshare", ["-n", process.execPath, CLI, ...args]);
    const result = await inside("attach", "--netlink", files.image);
    expectRefusal(result, 2, /cannot be reached through netlink/);
    expect(result.stderr).toMatch(/^hint: .*--ioctl/m);
    await expectNothingAttached();
    const legacy = await inside("attach", files.image);
    expect(legacy.stderr).toMatch(/^note: .*attached by ioctl/m);
    expect(legacy.stdout).toMatch(/^\/dev\/nbd\d+\n$/);
    await detachAll();
  });

  test("an index beyond the kernel's, and a device that a process holds open", async () => {
    guard.expectKernelLog(/^nbd: (illegal input index \d+|nbd9 already in use)$/);
    const maxPart = Number(readFileSync("/sys/module/nbd/parameters/max_part", "utf8"));
    const beyond = 2 ** (20 - Math.ceil(Math.log2(maxPart + 1)));
    expectRefusal(
      await erofsNbd("attach", "--device", `${beyond}`, files.image),
      maxPart === 0 ? 1 : 2,
      /nbd|index/,
    );
    const holder = openSync("/dev/nbd9", "r");
    try {
      expectRefusal(await erofsNbd("attach", "--device", "nbd9", files.image), 2, /nbd9.*(EBUSY|in use)/);
    } finally {
      closeSync(holder);
    }
    await expectNothingAttached();
  });

  test("a device in use, and the device itself as the image; one image twice is allowed", async () => {
    const first = await attach("--device", "nbd3", files.image);
    expect(first).toMatchObject({ device: "/dev/nbd3", index: 3, blockSizeBytes: 4096, state: "serving" });
    expectRefusal(
      await erofsNbd("attach", "--device", "/dev/nbd3", files.image),
      2,
      /nbd3: it is in use with/,
    );
    expectRefusal(
      await erofsNbd("attach", "--device", "3", "/dev/nbd3"),
      1,
      /the image is the device itself/,
    );
    const second = await attach(files.image);
    expect(second.index).not.toBe(3);
    const both = JSON.parse(await erofsNbdOk("status", "--json")) as DeviceStatus[];
    expect(both.map(({ source }) => source.uri)).toEqual([files.image, files.image]);
    const mixed = await erofsNbd("detach", files.image, "nbd12");
    expect(mixed).toMatchObject({ code: 64 });
    expect(mixed.stdout.trim().split("\n").sort()).toEqual(
      [`detached ${first.device}`, `detached ${second.device}`].sort(),
    );
    expect(mixed.stderr).toMatch(/^erofs-nbd: cannot .*nbd12.*not attached$/m);
    await expectNothingAttached();
  });

  test("a raw image is attached with a note", async () => {
    // The partition scan takes anything for a table.
    guard.expectKernelLog(/^(Dev )?nbd\d+: (unable to read RDB block|partition table beyond EOD)/);
    const result = await erofsNbd("attach", files.at("raw"));
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/^\/dev\/nbd\d+\n$/);
    expect(result.stderr).toMatch(/^note: .*not an EROFS image/);
    await detachAll();
  });

  test("a detach while mounted, with the mount point; --force does it", async () => {
    guard.expectKernelLog(/I\/O error/, /erofs/);
    const device = await attach(files.image);
    execFileSync("mount", ["-t", "erofs", "-o", "ro", `${device.device}`, files.mountPoint]);
    const refused = await erofsNbd("detach", `${device.device}`);
    expectRefusal(refused, 2, new RegExp(`it is mounted at ${files.mountPoint}`));
    expect(refused.stderr).toMatch(/^hint: .*--force/m);
    await erofsNbdOk("detach", "--force", files.mountPoint);
    execFileSync("umount", [files.mountPoint]);
    await expectNothingAttached();
  });

  test("a control socket held by a dead manager", async () => {
    const first = await attach(files.image);
    process.kill(first.managerPid, "SIGKILL");
    expect(existsSync(`${RUN_DIR}/control.sock`)).toBe(true);
    const second = await erofsNbd("attach", files.image);
    expect(second.code, second.stderr).toBe(0);
    expect(second.stderr).toMatch(/^note: .*left by manager \d+: 1 of 1 links served, going on$/m);
    expect(await status(first.device ?? "")).toMatchObject({ state: "serving", links: first.links });
    await detachAll();
    await expectNothingAttached();
  });
});

describe("interrupted", () => {
  guarded();

  test("while the manager is being started: no manager and no device stay", async () => {
    const command = start(["attach", files.image]);
    await until("the manager's start", () => managerPids().length > 0);
    command.kill("SIGINT");
    expect(await command.ended).toMatchObject({ code: 8, stdout: "" });
    await until("the manager's end", () => managerPids().length === 0);
    expect(existsSync("/sys/block/nbd0/pid")).toBe(false);
  });
});

test("doctor finds a lab guest fit", async () => {
  const result = await erofsNbd("doctor", "--json");
  expect(result, result.stdout).toMatchObject({ code: 0 });
  const { ok, checks } = JSON.parse(result.stdout) as {
    ok: boolean;
    checks: Array<{ name: string; state: string }>;
  };
  expect(ok).toBe(true);
  expect(checks.filter(({ state }) => state !== "ok")).toEqual([]);
});
