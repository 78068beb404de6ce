/**
 * The command line on a real kernel: every bad input with its message, its exit code and nothing left behind, and the
 * life of a mount, of a foreground attach and of an interrupted command.
 *
 * Runs inside a guest (or with --host); failovers are tested elsewhere.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/manager/control-protocol.ts";
import { fillDirectory, makeImage } from "../../helpers/erofs-image.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  attach,
  CLI,
  type CommandResult,
  detachAll,
  erofsNbd,
  erofsNbdOk,
  run,
  statusWhen,
  until,
} from "./product.ts";

const SERIES = process.env["EROFS_NBD_LAB_KERNEL"];
const RUN_DIR = "/run/erofs-nbd";
const NOBODY = 65_534;

let directory = "";
let image = "";
let mountPoint = "";
const at = (name: string): string => join(directory, name);

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "cli-"));
  chmodSync(directory, 0o755);
  mkdirSync(at("tree"));
  fillDirectory(at("tree"), 5, 400_000);
  image = (await makeImage(at("good.erofs"), at("tree"))).path;
  mountPoint = at("mnt");
  mkdirSync(mountPoint);
  copyFileSync(image, at("truncated.erofs"));
  truncateSync(at("truncated.erofs"), 8192);
  writeFileSync(at("empty"), "");
  writeFileSync(at("raw"), "raw ".repeat(1000));
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** One line that begins as all our errors do, an optional hint, and the exit code. */
function expectRefusal(result: CommandResult, code: number, message: RegExp): void {
  expect(result, result.stderr).toMatchObject({ code, stdout: "" });
  const lines = result.stderr.trimEnd().split("\n");
  const errors = lines.filter((line) => line.startsWith("erofs-nbd: "));
  expect(errors, result.stderr).toHaveLength(1);
  expect(errors[0]).toMatch(message);
  for (const line of lines) expect(line).toMatch(/^(erofs-nbd: Cannot |hint: |note: )/);
}

/** No record of a device, and no manager: an automatic one leaves when it has nothing to do. */
async function expectNothingAttached(): Promise<void> {
  const records = existsSync(`${RUN_DIR}/devices`) ? readdirSync(`${RUN_DIR}/devices`) : [];
  expect(records).toEqual([]);
  await until("the end of the manager", () => !existsSync(`${RUN_DIR}/control.sock`));
}

const mountsOf = (path: string): number =>
  readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.split(" ")[4] === path).length;

/** Starts the command line and lets the caller send signals. */
function start(args: readonly string[]): { child: ChildProcess; ended: Promise<CommandResult> } {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const ended = once(child, "close").then(([code]) => ({ code: code as number | null, stdout, stderr }));
  return { child, ended };
}

/** The manager has begun to attach: it writes the record before the act. */
const aRecord = (): Promise<void> =>
  until(
    "a record of the device",
    () => existsSync(`${RUN_DIR}/devices`) && readdirSync(`${RUN_DIR}/devices`).length > 0,
  );

/** What a command prints first; an error when it ends without. */
async function firstOutput(command: ReturnType<typeof start>): Promise<string> {
  const { stdout } = command.child;
  if (stdout === null) throw new Error("The command has no stdout");
  const failed = command.ended.then((result) => {
    throw new Error(`The command ended early: ${JSON.stringify(result)}`);
  });
  return String(((await Promise.race([once(stdout, "data"), failed])) as [string])[0]).trim();
}

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
    const words = command === "mount" ? [mountPoint] : [];
    expectRefusal(await erofsNbd(command, at(name), ...words), code, message);
    await expectNothingAttached();
  });

  test.each([
    [["--connections", "12abc"], /--connections 12abc: wanted a whole number from 1 to 64/],
    [["--timeout", "1.5"], /--timeout 1\.5: wanted whole seconds/],
    [["--io-timeout", "-1"], /--io-timeout -1: wanted a whole number/],
    [["--block-size", "1000"], /--block-size 1000: wanted a power of two/],
    [["--device", "/dev/sda"], /--device \/dev\/sda: wanted an nbd device/],
    [["--device", "9999999"], /--device 9999999: wanted an index from 0 to/],
  ])("attach %j", async (words, message) => {
    expectRefusal(await erofsNbd("attach", ...words, image), 1, message);
    await expectNothingAttached();
  });

  test("a mount point that is not there, and one that is a file", async () => {
    expectRefusal(await erofsNbd("mount", image, at("nowhere")), 1, /there is no directory/);
    expectRefusal(await erofsNbd("mount", image, image), 1, /is not a directory/);
    await expectNothingAttached();
  });

  test("somebody who is not root", async () => {
    const child = spawn(process.execPath, [CLI, "attach", image], {
      stdio: ["ignore", "ignore", "pipe"],
      uid: NOBODY,
      gid: NOBODY,
    });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    const [code] = (await once(child, "close")) as [number];
    expectRefusal({ code, stdout: "", stderr }, 1, /only root may/);
    await expectNothingAttached();
  });

  test("detach, umount and status of what is not attached", async () => {
    expectRefusal(await erofsNbd("detach", "nbd5"), 3, /nbd5: it is not attached/);
    expectRefusal(await erofsNbd("detach", image), 3, /it is not attached/);
    expectRefusal(await erofsNbd("umount", mountPoint), 3, /no nbd device is mounted there/);
    expectRefusal(await erofsNbd("status", "nbd5"), 3, /nbd5: it is not attached/);
    expect(await erofsNbd("status", "--json")).toMatchObject({ code: 0, stdout: "[]\n" });
    await expectNothingAttached();
  });
});

describe("refused by the manager or the kernel", () => {
  const guard = guarded();

  test("a run directory that cannot be written or belongs to somebody else", async () => {
    const readOnly = at("read-only");
    mkdirSync(readOnly);
    execFileSync("mount", ["-t", "tmpfs", "-o", "ro", "none", readOnly]);
    try {
      expectRefusal(await erofsNbd("--run-dir", readOnly, "attach", image), 1, /Cannot use run directory/);
    } finally {
      execFileSync("umount", [readOnly]);
    }
    mkdirSync(at("theirs"));
    execFileSync("chown", [`${NOBODY}`, at("theirs")]);
    expectRefusal(await erofsNbd("--run-dir", at("theirs"), "attach", image), 1, /belongs to somebody else/);
  });

  test.runIf(SERIES !== undefined)("no nbd driver", async () => {
    const helper = readFileSync("/proc/sys/kernel/modprobe", "utf8");
    // Newer kernels load the driver when its family is asked for.
    writeFileSync("/proc/sys/kernel/modprobe", "/bin/false\n");
    execFileSync("rmmod", ["nbd"]);
    try {
      const result = await erofsNbd("attach", image);
      expectRefusal(result, 2, /the kernel has no nbd driver/);
      expect(result.stderr).toMatch(/^hint: .*modprobe nbd/m);
      const doctor = await erofsNbd("doctor");
      expect(doctor.stdout).toMatch(/^warn +nbd driver +not loaded; the module is there$/m);
      expect(existsSync("/sys/module/nbd")).toBe(false);
      await expectNothingAttached();
    } finally {
      execFileSync("modprobe", ["nbd"]);
      writeFileSync("/proc/sys/kernel/modprobe", helper);
    }
  });

  test.runIf(SERIES === "6.1")("a driver that netlink does not reach", async () => {
    const inside = (...args: string[]) => run("unshare", ["-n", process.execPath, CLI, ...args]);
    const result = await inside("attach", "--netlink", image);
    expectRefusal(result, 2, /cannot be reached through netlink/);
    expect(result.stderr).toMatch(/^hint: .*--ioctl/m);
    await expectNothingAttached();
    const legacy = await inside("attach", image);
    expect(legacy.stderr).toMatch(/^note: .*attached by ioctl/m);
    expect(legacy.stdout).toMatch(/^\/dev\/nbd\d+\n$/);
    await detachAll();
  });

  test("an index beyond the kernel's, and a device that somebody holds open", async () => {
    guard.expectKernelLog(/^nbd: (illegal input index \d+|nbd9 already in use)$/);
    const maxPart = Number(readFileSync("/sys/module/nbd/parameters/max_part", "utf8"));
    const beyond = 2 ** (20 - Math.ceil(Math.log2(maxPart + 1)));
    expectRefusal(
      await erofsNbd("attach", "--device", `${beyond}`, image),
      maxPart === 0 ? 1 : 2,
      /nbd|index/,
    );
    const holder = openSync("/dev/nbd9", "r");
    try {
      expectRefusal(await erofsNbd("attach", "--device", "nbd9", image), 2, /nbd9.*(EBUSY|in use)/);
    } finally {
      closeSync(holder);
    }
    await expectNothingAttached();
  });

  test("a device in use, the device itself as the image; one image twice is allowed", async () => {
    const first = await attach("--device", "nbd3", image);
    expect(first).toMatchObject({ device: "/dev/nbd3", index: 3, blockSizeBytes: 4096, state: "serving" });
    expectRefusal(await erofsNbd("attach", "--device", "/dev/nbd3", image), 2, /nbd3: it is in use with/);
    expectRefusal(
      await erofsNbd("attach", "--device", "3", "/dev/nbd3"),
      1,
      /the image is the device itself/,
    );
    const second = await attach(image);
    expect(second.index).not.toBe(3);
    const both = JSON.parse(await erofsNbdOk("status", "--json")) as DeviceStatus[];
    expect(both.map(({ source }) => source.uri)).toEqual([image, image]);
    const mixed = await erofsNbd("detach", image, "nbd12");
    expect(mixed).toMatchObject({ code: 64 });
    expect(mixed.stdout.trim().split("\n").sort()).toEqual(
      [`detached ${first.device}`, `detached ${second.device}`].sort(),
    );
    expect(mixed.stderr).toMatch(/^erofs-nbd: Cannot .*nbd12.*not attached$/m);
    await expectNothingAttached();
  });

  test("a raw image is attached with a note", async () => {
    // The partition scan takes anything for a table.
    guard.expectKernelLog(/^(Dev )?nbd\d+: (unable to read RDB block|partition table beyond EOD)/);
    const result = await erofsNbd("attach", at("raw"));
    expect(result.code).toBe(0);
    expect(result.stdout).toMatch(/^\/dev\/nbd\d+\n$/);
    expect(result.stderr).toMatch(/^note: .*not an EROFS image/);
    await detachAll();
  });

  test("detach while mounted is refused with the mount point, --force does it", async () => {
    guard.expectKernelLog(/I\/O error/, /erofs/);
    const device = await attach(image);
    execFileSync("mount", ["-t", "erofs", "-o", "ro", `${device.device}`, mountPoint]);
    const refused = await erofsNbd("detach", `${device.device}`);
    expectRefusal(refused, 2, new RegExp(`it is mounted at ${mountPoint}`));
    expect(refused.stderr).toMatch(/^hint: .*--force/m);
    await erofsNbdOk("detach", "--force", mountPoint);
    execFileSync("umount", [mountPoint]);
    await expectNothingAttached();
  });

  test("a control socket held by a dead manager", async () => {
    guard.expectKernelLog(...LINK_DEATH_LINES);
    const first = await attach(image);
    process.kill(first.managerPid, "SIGKILL");
    expect(existsSync(`${RUN_DIR}/control.sock`)).toBe(true);
    const second = await erofsNbd("attach", image);
    expect(second.code, second.stderr).toBe(0);
    expect(second.stderr).toMatch(/^note: .*left by manager \d+, which is dead/m);
    await statusWhen(first.device ?? "", "the adopted device's recovery", ({ state }) => state === "serving");
    await detachAll();
    await expectNothingAttached();
  });
});

describe("mount and umount", () => {
  const guard = guarded();

  test("a plain umount ends everything", async () => {
    expect(await erofsNbd("mount", image, mountPoint)).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(readdirSync(mountPoint)).toEqual(readdirSync(at("tree")));
    execFileSync("umount", [mountPoint]);
    await expectNothingAttached();
  });

  test("umount returns when everything is gone; a busy one fails with umount's words", async () => {
    await erofsNbdOk("mount", "-o", "noatime", image, mountPoint);
    const busy = openSync(join(mountPoint, readdirSync(mountPoint)[0] ?? ""), "r");
    try {
      const refused = await erofsNbd("umount", mountPoint);
      expectRefusal(refused, 32, /busy/i);
    } finally {
      closeSync(busy);
    }
    const [device] = JSON.parse(await erofsNbdOk("status", "--json")) as DeviceStatus[];
    expect(await erofsNbd("umount", mountPoint)).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(readdirSync(`${RUN_DIR}/devices`)).toEqual([]);
    expect(existsSync(`/sys/block/nbd${device?.index}/pid`)).toBe(false);
    await expectNothingAttached();
  });

  test("mount options that the kernel refuses end with 32 and mount's words", async () => {
    guard.expectKernelLog(/erofs/);
    expectRefusal(
      await erofsNbd("mount", "-o", "no-such-option", image, mountPoint),
      32,
      /Cannot mount .+: ./,
    );
    expect(mountsOf(mountPoint)).toBe(0);
    await expectNothingAttached();
  });

  test("an interrupted mount leaves nothing", async () => {
    const command = start(["mount", image, mountPoint]);
    await aRecord();
    command.child.kill("SIGINT");
    const result = await command.ended;
    expectRefusal(result, 8, /interrupted by SIGINT/);
    expect(mountsOf(mountPoint)).toBe(0);
    await expectNothingAttached();
  });

  test("a mount command that is killed leaves nothing", async () => {
    const command = start(["mount", image, mountPoint]);
    await aRecord();
    command.child.kill("SIGKILL");
    await command.ended;
    // Nobody waits for the manager here: it cleans up in its own time.
    await until("the manager's cleaning up", () => readdirSync(`${RUN_DIR}/devices`).length === 0);
    await expectNothingAttached();
  });
});

describe("in the foreground", () => {
  guarded();

  test("a signal detaches and ends with 0; while mounted it is refused", async () => {
    const command = start(["attach", "--foreground", image]);
    const node = await firstOutput(command);
    expect(node).toMatch(/^\/dev\/nbd\d+$/);
    execFileSync("mount", ["-t", "erofs", "-o", "ro", node, mountPoint]);
    const refusal = once(command.child.stderr as NonNullable<typeof command.child.stderr>, "data");
    command.child.kill("SIGINT");
    expect(String(((await refusal) as [string])[0])).toMatch(/Cannot detach nbd\d+: it is mounted at/);
    expect(JSON.parse(await erofsNbdOk("status", "--json", node))).toMatchObject({ state: "serving" });
    execFileSync("umount", [mountPoint]);
    command.child.kill("SIGTERM");
    expect(await command.ended).toMatchObject({ code: 0, stdout: `${node}\n` });
    await expectNothingAttached();
  });

  test("a detach from elsewhere ends it, too", async () => {
    const command = start(["attach", "--foreground", image]);
    const node = await firstOutput(command);
    await erofsNbdOk("detach", node);
    expect(await command.ended).toMatchObject({ code: 0, stderr: "" });
    await expectNothingAttached();
  });

  test("an interrupted attach leaves nothing", async () => {
    const command = start(["attach", image]);
    await aRecord();
    command.child.kill("SIGTERM");
    const result = await command.ended;
    expectRefusal(result, 8, /interrupted by SIGTERM/);
    await expectNothingAttached();
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
