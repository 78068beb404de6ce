/**
 * nbd-client attaches a real kernel's device to `serve`: over netlink and ioctl, through a unix socket and TCP.
 *
 * nbd-client is no part of this project. Its handshake and the kernel driver's own requests are served, and every byte
 * is compared.
 */
import { execFileSync } from "node:child_process";
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fillDirectory, makeImage } from "../../helpers/images/erofs-image.ts";
import { MiniNbdClient } from "../../helpers/nbd/mini-nbd-client.ts";
import { type ServeProcess, startServe } from "../../helpers/nbd/serve-process.ts";
import { until } from "../../helpers/until.ts";
import { guarded } from "./leftovers.ts";

const DEVICE = "/dev/nbd5";
const SYSFS = "/sys/block/nbd5";
const PORT = 10_810;

let directory: string;
let image: string;
let content: Buffer;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "interop-"));
  image = join(directory, "image.erofs");
  fillDirectory(join(directory, "tree"), 12, 3_000_000);
  await makeImage(image, join(directory, "tree"));
  content = readFileSync(image);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const client = (...args: string[]): void => {
  // A file for its output: the process that it leaves behind would keep a pipe open.
  const log = join(directory, "nbd-client.log");
  const fd = openSync(log, "w");
  try {
    execFileSync("nbd-client", args, { stdio: ["ignore", fd, fd], timeout: 30_000 });
  } catch (error) {
    throw new Error(`nbd-client ${args.join(" ")}: ${readFileSync(log, "utf8")}`, { cause: error });
  } finally {
    closeSync(fd);
  }
};
const attribute = (name: string): string => readFileSync(join(SYSFS, name), "utf8").trim();

/** The device's contents, past the page cache, by reads of 64 KiB. */
function readDevice(): Buffer {
  const fd = openSync(DEVICE, constants.O_RDONLY);
  try {
    const bytes = Buffer.alloc(content.length);
    for (let at = 0; at < bytes.length; )
      at += readSync(fd, bytes, at, Math.min(65_536, bytes.length - at), at);
    return bytes;
  } finally {
    closeSync(fd);
  }
}

describe("nbd-client", () => {
  const guard = guarded();

  test.each<[string, string[], () => string[], () => string[]]>([
    [
      "netlink, unix socket",
      [],
      () => ["--socket", join(directory, "s")],
      () => ["-unix", join(directory, "s")],
    ],
    [
      "ioctl, unix socket",
      ["-nonetlink"],
      () => ["--socket", join(directory, "s")],
      () => ["-unix", join(directory, "s")],
    ],
    ["netlink, TCP", [], () => ["--listen", `127.0.0.1:${PORT}`], () => ["127.0.0.1", `${PORT}`]],
    ["ioctl, TCP", ["-nonetlink"], () => ["--listen", `127.0.0.1:${PORT}`], () => ["127.0.0.1", `${PORT}`]],
  ])("reads and mounts an image through serve: %s", async (_, flags, listen, reach) => {
    const server: ServeProcess = await startServe(...listen(), image);
    const mountPoint = mkdtempSync(join(directory, "mnt-"));
    try {
      client(...reach(), DEVICE, "-b", "4096", ...flags);
      await until("the device has its size", () => attribute("size") === `${content.length / 512}`);
      expect(attribute("ro")).toBe("1");
      execFileSync("blockdev", ["--flushbufs", DEVICE]);
      expect(readDevice().equals(content)).toBe(true);
      execFileSync("mount", ["-t", "erofs", "-o", "ro", DEVICE, mountPoint]);
      try {
        execFileSync("diff", ["-r", join(directory, "tree"), mountPoint]);
      } finally {
        execFileSync("umount", [mountPoint]);
      }
    } finally {
      client("-d", DEVICE);
      await until("the device is free", () => attribute("size") === "0");
      rmSync(mountPoint, { recursive: true });
      expect(await server.stop()).toMatchObject({ code: 0 });
    }
  });

  test("reports an unknown name, and leaves no device behind", async () => {
    const path = join(directory, "s");
    const server = await startServe("--socket", path, "--name", "right", image);
    expect(() => client("-unix", path, DEVICE, "-N", "wrong")).toThrow(/nbd-client .*wrong/);
    expect(attribute("size")).toBe("0");
    client("-unix", path, DEVICE, "-N", "right", "-b", "4096");
    await until("the device has its size", () => attribute("size") === `${content.length / 512}`);
    client("-d", DEVICE);
    await until("the device is free", () => attribute("size") === "0");
    expect(await server.stop()).toMatchObject({ code: 0 });
  });

  test("keeps its device through a change of the image: reads fail, none returns other bytes", async () => {
    const path = join(directory, "s");
    const changing = join(directory, "changing");
    writeFileSync(changing, content);
    const server = await startServe("--socket", path, changing);
    client("-unix", path, DEVICE, "-b", "4096");
    await until("the device has its size", () => attribute("size") === `${content.length / 512}`);
    execFileSync("blockdev", ["--flushbufs", DEVICE]);
    expect(readDevice().equals(content)).toBe(true);
    execFileSync("blockdev", ["--flushbufs", DEVICE]);
    writeFileSync(changing, Buffer.alloc(content.length, 0xee), { flag: "r+" });
    guard.expectKernelLog(
      /^block nbd5: Other side returned error \(5\)$/,
      /^(blk_update_request: )?I\/O error, dev nbd5, sector \d+ op 0x0:\(READ\)/,
      /^Buffer I\/O error on dev nbd5, logical block \d+, async page read$/,
    );
    expect(readDevice).toThrow(/EIO/);
    client("-d", DEVICE);
    await until("the device is free", () => attribute("size") === "0");
    const { stderr } = await server.stop();
    expect(stderr).toContain("it was modified");
  });

  test("has a device served on, whose failing reads get EIO at every size while its client stays", async () => {
    const path = join(directory, "s");
    const changing = join(directory, "failing");
    writeFileSync(changing, content);
    const below = await startServe("--socket", path, changing);
    client("-unix", path, DEVICE, "-b", "4096");
    await until("the device has its size", () => attribute("size") === `${content.length / 512}`);
    const above = await startServe("--socket", join(directory, "above"), DEVICE);
    const reader = await MiniNbdClient.open({ path: join(directory, "above") });
    const SIZES = [4096, 128 * 1024, 1024 * 1024];
    for (const size of SIZES)
      expect((await reader.read(8192, size)).equals(content.subarray(8192, 8192 + size))).toBe(true);
    writeFileSync(changing, Buffer.alloc(content.length, 0xee), { flag: "r+" });
    execFileSync("blockdev", ["--flushbufs", DEVICE]);
    guard.expectKernelLog(
      /^block nbd5: Other side returned error \(5\)$/,
      /^(blk_update_request: )?I\/O error, dev nbd5, sector \d+ op 0x0:\(READ\)/,
      /^Buffer I\/O error on dev nbd5, logical block \d+, async page read$/,
    );
    for (const size of SIZES) expect((await reader.request(0, 8192, size)).errno).toBe(5);
    await reader.disconnect();
    const { code, stderr } = await above.stop();
    expect([code, stderr]).toEqual([
      0,
      expect.stringMatching(/^error: cannot read \/dev\/nbd5 at .*: EIO$/m),
    ]);
    client("-d", DEVICE);
    await until("the device is free", () => attribute("size") === "0");
    await below.stop();
  });
});
