/**
 * Images that lie elsewhere for the manager than for the command: another mount namespace, another root, a path that leads
 * elsewhere by now, or no path at all. The device has the bytes of the image that the command has opened, or there is none.
 *
 * Runs inside a guest (or with --host). The manager runs in the test's own namespace and was started there before.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { ControlClient } from "../../../src/control/client.ts";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { processStat } from "../../../src/sys/process-stat.ts";
import { makeImage } from "../../helpers/images/erofs-image.ts";
import { cliFixture } from "./cli-fixture.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  CLI,
  cleanUpAfterFailure,
  detachAll,
  erofsNbd,
  erofsNbdOk,
  guardiansOf,
  killTogether,
  reach,
  run,
  status,
  statuses,
  statusWhen,
  until,
  untilAsync,
  workersOf,
} from "./product.ts";

/** The package as it is installed. */
const LIBRARY = new URL("../../../dist/src/index.js", import.meta.url).href;
const files = cliFixture();
/** Another image of the same size, which lies somewhere else. */
const other = (): string => files.at("other.erofs");

beforeAll(async () => {
  mkdirSync(files.at("other-tree"));
  writeFileSync(files.at("tree/which"), "first");
  writeFileSync(files.at("other-tree/which"), "other");
  await makeImage(files.image, files.at("tree"));
  await makeImage(other(), files.at("other-tree"));
  // A guest's own /dev may have neither.
  for (const [path, target] of [
    ["/dev/stdin", "/proc/self/fd/0"],
    ["/dev/fd", "/proc/self/fd"],
  ] as const)
    if (!existsSync(path)) symlinkSync(target, path);
});

/** The words of the command line in a shell where `$CLI` is the program. */
function shell(script: string, ...before: readonly string[]): ReturnType<typeof run> {
  const [program = "", ...words] = [...before, "sh", "-ec", script];
  return run(program, words, {
    CLI: `${process.execPath} ${CLI}`,
    IMAGE: files.image,
    OTHER: other(),
    MNT: files.mountPoint,
  });
}

async function attachIn(script: string, ...before: readonly string[]): Promise<DeviceStatus> {
  const { code, stdout, stderr } = await shell(script, ...before);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout) as DeviceStatus;
}

/** The device has this file's bytes, and nothing of another. */
function expectBytes({ device, sizeBytes }: DeviceStatus, path: string): void {
  const wanted = readFileSync(path);
  const got = readFileSync(device ?? "");
  expect(got.length).toBe(sizeBytes);
  expect(got.subarray(0, wanted.length).equals(wanted)).toBe(true);
}

describe("the device has the bytes of the image that the command has open", () => {
  const guard = guarded();
  cleanUpAfterFailure();
  let manager: ControlClient;
  beforeEach(async () => {
    // The partition scan takes the small image for a table.
    guard.expectKernelLog(/^(Dev )?nbd\d+: (unable to read RDB block|partition table beyond EOD)/);
    manager = await reach();
  });
  afterEach(async () => {
    manager.close();
    await detachAll();
  });

  test("in another mount namespace, with another file at the path", async () => {
    const script = 'mount --bind "$OTHER" "$IMAGE"; exec $CLI attach --json "$IMAGE"';
    const device = await attachIn(script, "unshare", "-m");
    expectBytes(device, other());
    expect(device.source.uri).toBe(`descriptor:${files.image}`);
    const again = await attachIn('exec $CLI attach --json "$IMAGE"');
    expectBytes(again, files.image);
    expect(again.source.uri).toBe(files.image);
    // The path names what each of them sees there.
    const inside = (words: string) =>
      shell(`mount --bind "$OTHER" "$IMAGE"; $CLI ${words} "$IMAGE"`, "unshare", "-m");
    const seen = await inside("status --json");
    expect(JSON.parse(seen.stdout)).toMatchObject({ identifier: device.identifier });
    expect(await inside("detach")).toMatchObject({ code: 0, stdout: `detached ${device.device}\n` });
    expect(await inside("detach")).toMatchObject({ code: 3, stdout: "" });
    const left = await shell('$CLI status --json "$IMAGE"');
    expect(JSON.parse(left.stdout)).toMatchObject({ identifier: again.identifier });
  });

  test("a mount in another mount namespace", async () => {
    const script =
      'mount --bind "$OTHER" "$IMAGE"; $CLI mount "$IMAGE" "$MNT"; cat "$MNT/which"; $CLI umount "$MNT"';
    expect(await shell(script, "unshare", "-m")).toEqual({ code: 0, stdout: "other", stderr: "" });
  });

  test("a mount where the device's node is another device's is refused", async () => {
    await attachIn('exec $CLI attach --json --device 15 "$OTHER"');
    const script = 'mount --bind /dev/nbd15 /dev/nbd3; exec $CLI mount -o nbd.device=3 "$IMAGE" "$MNT"';
    const refused = await shell(script, "unshare", "-m");
    expect(refused).toMatchObject({ code: 32, stdout: "" });
    expect(refused.stderr).toMatch(
      /\/dev\/nbd3 is another device here, 43:\d+\nhint: create a node for 43:\d+ there/,
    );
    expect((await statuses()).map(({ index }) => index)).toEqual([15]);
  });

  test("under another root", async () => {
    const jail = files.at("jail");
    mkdirSync(jail);
    execFileSync("sh", [
      "-ec",
      'mount --rbind / "$0"; mount --make-rprivate "$0"; mount --bind "$1" "$0$2"',
      jail,
      other(),
      files.image,
    ]);
    try {
      const device = await attachIn('exec $CLI attach --json "$IMAGE"', "chroot", jail);
      expectBytes(device, other());
      expect(device.source.uri).toBe(`${jail}${files.image}`);
      manager.close();
      await detachAll();
    } finally {
      execFileSync("umount", ["-R", "-l", jail]);
    }
  });

  test("a source module, which workers load by its path, is refused from there", async () => {
    writeFileSync(
      files.at("module.mjs"),
      "export const open = () => ({ sizeBytes: 4096, read: (to) => void to.fill(7) });",
    );
    const program = `const { attach } = await import(${JSON.stringify(LIBRARY)});
      const device = await attach({ module: ${JSON.stringify(files.at("module.mjs"))} }).catch(({ message }) => message);
      console.log(device.device ?? device);
      await device.detach?.();`;
    const words = [process.execPath, "--input-type=module", "-e", program];
    const refused = await run("unshare", ["-m", ...words]);
    expect(refused.stdout).toMatch(/^cannot use source module .*: the manager is in another mount namespace/);
    expect(await statuses()).toEqual([]);
    expect((await run("env", words)).stdout).toMatch(/^\/dev\/nbd\d+$/m);
  });

  test("/dev/stdin, and a descriptor by its number", async () => {
    for (const script of [
      'exec $CLI attach --json /dev/stdin <"$OTHER"',
      'exec $CLI attach --json /proc/self/fd/7 7<"$OTHER"',
      'exec $CLI attach --json /dev/fd/7 7<>"$OTHER"',
    ]) {
      const device = await attachIn(script);
      expectBytes(device, other());
      expect(device.source.uri).toBe(other());
    }
    const piped = await shell('cat "$OTHER" | $CLI attach /dev/stdin');
    expect(piped).toMatchObject({ code: 1, stdout: "" });
    expect(piped.stderr).toMatch(/\/dev\/stdin: it is neither a regular file nor a block device/);
  });

  test("a number that names the manager's lock to the manager names the caller's file", async () => {
    const { pid } = await manager.request("hello", {});
    const number = readdirSync(`/proc/${pid}/fd`).find((fd) =>
      readlinkSync(`/proc/${pid}/fd/${fd}`).endsWith("/manager.lock"),
    );
    const device = await attachIn(
      `exec bash -ec 'exec ${number}<"$OTHER"; exec $CLI attach --json /proc/self/fd/${number}'`,
    );
    expectBytes(device, other());
    expect(device.source.uri).toBe(other());
  });

  test("a file that has been deleted, and one that a mount covers", async () => {
    copyFileSync(other(), files.at("copy"));
    const gone = await attachIn(
      'exec 7<"$0"; rm "$0"; exec $CLI attach --json /proc/self/fd/7'.replaceAll("$0", files.at("copy")),
    );
    expectBytes(gone, other());
    expect(gone.source.uri).toBe(`descriptor:${files.at("copy")} (deleted)`);
    try {
      const covered = await attachIn(
        'exec 7<"$IMAGE"; mount --bind "$OTHER" "$IMAGE"; exec $CLI attach --json /proc/self/fd/7',
      );
      // The descriptor is the only way to it.
      expect(readFileSync(files.image).equals(readFileSync(other()))).toBe(true);
      expect(covered.source.uri).toBe(`descriptor:${files.image}`);
      execFileSync("umount", [files.image]);
      expectBytes(covered, files.image);
    } finally {
      execFileSync("sh", ["-c", 'while umount "$0" 2>/dev/null; do :; done', files.image]);
    }
  });
});

describe("after everything has died, with another file at the path", () => {
  const guard = guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();
  beforeEach(() => {
    guard.expectKernelLog(
      /^(Dev )?nbd\d+: (unable to read RDB block|partition table beyond EOD)/,
      /^(loop: module loaded|loop0: detected capacity change from \d+ to \d+|nbd: nbd5 already in use)$/,
    );
  });
  afterEach(() => {
    execFileSync("sh", ["-c", 'while umount "$0" 2>/dev/null; do :; done', files.image]);
  });

  /** The whole device past the page cache: it waits for as long as nobody serves. */
  async function startReading({ device }: DeviceStatus): Promise<() => Promise<Buffer>> {
    const child = spawn("dd", [`if=${device}`, "bs=64k", "iflag=direct", "status=none"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const parts: Buffer[] = [];
    child.stdout.on("data", (part: Buffer) => parts.push(part));
    const read = once(child, "close").then(([code]) => {
      expect(code).toBe(0);
      return Buffer.concat(parts);
    });
    // The kernel counts no read in flight while it has no link for it.
    await until("a read that waits", () => processStat(child.pid ?? 0)?.state === "D");
    return () => read;
  }

  async function loseEverything({ managerPid, device }: DeviceStatus): Promise<DeviceStatus> {
    await until("both workers", () => workersOf(managerPid).length === 2);
    await killTogether(managerPid, ...workersOf(managerPid));
    await untilAsync("a successor", async () => (await statuses().catch(() => [])).length > 0);
    return statusWhen(device ?? "", "the end of its links", ({ links }) => links.length === 0);
  }

  test("the device waits, says why, and gives no byte of that file; an attach of its image makes it go on", async () => {
    const device = await attachIn('exec $CLI attach --json "$IMAGE"');
    const fd = openSync(files.image, "r");
    const image = readFileSync(fd);
    try {
      execFileSync("mount", ["--bind", other(), files.image]);
      const lost = await loseEverything(device);
      expect(lost).toMatchObject({
        state: "stalled",
        identifier: device.identifier,
        stalledReason: expect.stringMatching(
          new RegExp(`^${files.image} is not what was attached: .*: erofs-nbd attach IMAGE$`),
        ),
      });
      const shown = await erofsNbd("status");
      expect(shown.stdout + shown.stderr).toContain("is not what was attached");
      const reading = await startReading(lost);
      const wrong = await attachIn('exec $CLI attach --json "$IMAGE"');
      expect(wrong.index).not.toBe(device.index);
      await erofsNbdOk("detach", `${wrong.device}`);
      const { code, stdout, stderr } = await shell(
        `exec 7</proc/${process.pid}/fd/${fd}; exec $CLI attach --json /proc/self/fd/7`,
      );
      expect(code, stderr).toBe(0);
      expect(JSON.parse(stdout)).toMatchObject({
        device: device.device,
        identifier: device.identifier,
        state: "serving",
      });
      expect(stderr).toBe(`note: nbd${device.index} was waiting for this image, and goes on with it\n`);
      expect((await reading()).subarray(0, image.length).equals(image)).toBe(true);
      await detachAll();
    } finally {
      closeSync(fd);
    }
  });

  test("what was handed in has to be handed in again, from wherever it can be opened", async () => {
    const manager = await reach();
    const device = await attachIn(
      'mount --bind "$OTHER" "$IMAGE"; exec $CLI attach --json "$IMAGE"',
      "unshare",
      "-m",
    );
    manager.close();
    const lost = await loseEverything(device);
    expect(lost).toMatchObject({
      state: "stalled",
      stalledReason: `descriptor:${files.image} was handed in as a descriptor: no path leads to it from here; hand the image in: erofs-nbd attach IMAGE`,
    });
    const reading = await startReading(lost);
    // A mount wants a device of its own; the other one goes on all the same.
    const mounted = await shell('$CLI mount "$OTHER" "$MNT"; cat "$MNT/which"; $CLI umount "$MNT"');
    expect(mounted).toMatchObject({ code: 0, stdout: "other" });
    const wanted = readFileSync(other());
    expect((await reading()).subarray(0, wanted.length).equals(wanted)).toBe(true);
    const after = await statusWhen(device.device ?? "", "service", ({ state }) => state === "serving");
    expect(after).toMatchObject({ identifier: device.identifier, source: { uri: other() } });
    await detachAll();
  });

  test("a disk that was made anew, with the same number and size, is another one", async () => {
    execFileSync("modprobe", ["loop"]);
    copyFileSync(files.image, files.at("disk"));
    copyFileSync(files.image, files.at("next"));
    writeFileSync(files.at("next"), "x", { flag: "r+" });
    execFileSync("losetup", ["/dev/loop0", files.at("disk")]);
    try {
      const device = await attachIn("exec $CLI attach --json /dev/loop0");
      const { managerPid } = device;
      await until("both workers", () => workersOf(managerPid).length === 2);
      // Without a guardian nobody begins before the disk is another one.
      await killTogether(managerPid, ...workersOf(managerPid), ...guardiansOf(managerPid));
      execFileSync("losetup", ["-d", "/dev/loop0"]);
      execFileSync("losetup", ["/dev/loop0", files.at("next")]);
      await erofsNbdOk("status");
      expect(await status(device.device ?? "")).toMatchObject({
        state: "stalled",
        stalledReason: expect.stringContaining(
          "/dev/loop0 is not what was attached: its device number now belongs to another disk or medium",
        ),
      });
      await detachAll();
    } finally {
      execFileSync("losetup", ["-d", "/dev/loop0"]);
    }
  });

  test("an index that another image has got shows nothing of the one before, nor while it was held open", async () => {
    const first = await attachIn('exec $CLI attach --json --device 5 "$IMAGE"');
    const held = openSync("/dev/nbd5", "r");
    expectBytes(first, files.image);
    await detachAll();
    // The kernel keeps the index, and with it the pages, for who has it open.
    const refused = await shell('exec $CLI attach --device 5 "$OTHER"');
    expect(refused).toMatchObject({ code: 2, stdout: "" });
    closeSync(held);
    const second = await attachIn('exec $CLI attach --json --device 5 "$OTHER"');
    expectBytes(second, other());
    await detachAll();
  });
});
