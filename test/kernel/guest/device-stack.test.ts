/**
 * Devices that something lies on: another device of erofs-nbd, device mapper, a loop device, a mounted partition.
 *
 * A detach of the lower one is refused, and the upper one's data stay. Runs inside a guest.
 */
import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { makeImage } from "../../helpers/images/erofs-image.ts";
import { cliFixture, expectNothingAttached, expectRefusal, mountsAt } from "./cli-fixture.ts";
import { guarded } from "./leftovers.ts";
import { attach, erofsNbd, erofsNbdOk, run, status, until } from "./product.ts";

const files = cliFixture();
const guard = guarded();

/** Exit code 2, the reason, and a hint that names the flag. */
async function expectKept({ device, index }: DeviceStatus, why: string): Promise<void> {
  const refused = await erofsNbd("detach", `${device}`);
  expectRefusal(refused, 2, new RegExp(`cannot detach nbd${index}: ${why}$`));
  expect(refused.stderr).toMatch(
    /^hint: .* first; --force detaches all the same, and .* gets? I\/O errors$/m,
  );
  expect(await status(`${device}`)).toMatchObject({ state: "serving" });
}

/** Every byte, past the page cache. */
const read = async (node: string): Promise<void> => {
  const result = await run("dd", [`if=${node}`, `of=${files.at("read")}`, "bs=64K", "iflag=direct"]);
  expect(result.code, result.stderr).toBe(0);
  const image = readFileSync(files.image);
  expect(readFileSync(files.at("read")).subarray(0, image.length).equals(image)).toBe(true);
};

describe("a device is the image of another one", () => {
  test("the lower one is not detached, and the upper one can be read afterwards", async () => {
    const lower = await attach(files.image);
    const upper = await attach(`${lower.device}`);
    await expectKept(lower, `the image of nbd${upper.index} lies on it`);
    await read(`${upper.device}`);
    await erofsNbdOk("detach", `${upper.device}`);
    await erofsNbdOk("detach", `${lower.device}`);
    await expectNothingAttached();
  });

  test("named together, and with --all, the upper ones go first", async () => {
    for (const all of [false, true]) {
      const lower = await attach(files.image);
      const middle = await attach(`${lower.device}`);
      const upper = await attach(`${middle.device}`);
      const nodes = [lower, middle, upper].map(({ device }) => `${device}`);
      await read(`${upper.device}`);
      const out = await erofsNbdOk("detach", ...(all ? ["--all"] : nodes));
      expect(out.split("\n").sort()).toEqual(nodes.map((node) => `detached ${node}`).sort());
      await expectNothingAttached();
    }
  });

  test("--force detaches the lower one alone", async () => {
    guard.expectKernelLog(/I\/O error/);
    const lower = await attach(files.image);
    const upper = await attach(`${lower.device}`);
    await erofsNbdOk("detach", "--force", `${lower.device}`);
    expect(await status(`${upper.device}`)).toMatchObject({ state: "serving" });
    expect((await run("dd", [`if=${upper.device}`, "of=/dev/null", "iflag=direct"])).code).not.toBe(0);
    await erofsNbdOk("detach", `${upper.device}`);
    await expectNothingAttached();
  });

  test("umount leaves it attached and says so, and it ends with the upper one", async () => {
    await erofsNbdOk("mount", files.image, files.mountPoint);
    const [lower] = JSON.parse(await erofsNbdOk("status", "--json")) as [DeviceStatus];
    const upper = await attach(`${lower.device}`);
    const ended = await erofsNbd("umount", "--json", files.mountPoint);
    expect(ended).toMatchObject({ code: 0 });
    expect(JSON.parse(ended.stdout)).toMatchObject({ device: lower.device, detached: false });
    expect(ended.stderr).toMatch(
      new RegExp(`^note: ${lower.device} stays attached: .* the image of nbd${upper.index} lies on it$`, "m"),
    );
    expect(mountsAt(files.mountPoint)).toBe(0);
    await read(`${upper.device}`);
    await erofsNbdOk("detach", `${upper.device}`);
    await expectNothingAttached();
  });
});

describe("links of devices that lie on one another", () => {
  /** No worker was killed because it waited for itself. */
  const expectNoHang = async (devices: readonly DeviceStatus[]): Promise<void> => {
    for (const { device } of devices) {
      const { lastFailover, links } = await status(`${device}`);
      expect(lastFailover?.cause ?? "").not.toMatch(/has not answered/);
      expect(links).toHaveLength(1);
    }
  };
  const workersOf = async (devices: readonly DeviceStatus[]): Promise<(number | undefined)[]> =>
    Promise.all(devices.map(async ({ device }) => (await status(`${device}`)).links[0]?.workerPid));

  test("are served by different workers, also after each of them has died", async () => {
    const lower = await attach(files.image);
    const middle = await attach(`${lower.device}`);
    const upper = await attach(`${middle.device}`);
    const all = [lower, middle, upper];
    for (const { device } of all) {
      await read(`${upper.device}`);
      expect(new Set(await workersOf(all)).size).toBe(3);
      process.kill((await status(`${device}`)).links[0]?.workerPid ?? 0, "SIGKILL");
    }
    await read(`${upper.device}`);
    expect(new Set(await workersOf(all)).size).toBe(3);
    await expectNoHang(all);
    await erofsNbdOk("detach", "--all");
    await expectNothingAttached();
  });

  test("are kept apart where the upper image is a file on the lower device", async () => {
    copyFileSync(files.image, files.at("tree/inner.erofs"));
    await makeImage(files.at("outer.erofs"), files.at("tree"));
    await erofsNbdOk("mount", files.at("outer.erofs"), files.mountPoint);
    const [outer] = JSON.parse(await erofsNbdOk("status", "--json")) as [DeviceStatus];
    const inner = await attach(`${files.mountPoint}/inner.erofs`);
    await read(`${inner.device}`);
    expect(new Set(await workersOf([outer, inner])).size).toBe(2);
    await expectNoHang([outer, inner]);
    await erofsNbdOk("detach", `${inner.device}`);
    await erofsNbdOk("umount", files.mountPoint);
    await expectNothingAttached();
  });
});

describe("a device is used by the kernel", () => {
  test("by device mapper", async () => {
    execFileSync("modprobe", ["dm_mod"]);
    const lower = await attach(files.image);
    const sectors = Math.floor(lower.sizeBytes / 512);
    execFileSync("dmsetup", ["create", "--readonly", "--noudevsync", "stacked"], {
      input: `0 ${sectors} linear ${lower.device} 0\n`,
    });
    try {
      await expectKept(lower, "it is in use by dm-\\d+");
    } finally {
      execFileSync("dmsetup", ["remove", "--noudevsync", "--retry", "stacked"]);
    }
    await erofsNbdOk("detach", `${lower.device}`);
    await expectNothingAttached();
  });

  test("by a loop device, which opens it as any program does", async () => {
    execFileSync("modprobe", ["loop"]);
    const lower = await attach(files.image);
    const loop = execFileSync("losetup", ["--find", "--show", "--read-only", `${lower.device}`], {
      encoding: "utf8",
    }).trim();
    try {
      await expectKept(lower, `it is in use by ${loop.replace("/dev/", "")}`);
    } finally {
      execFileSync("losetup", ["--detach", loop]);
    }
    const name = loop.replace("/dev/", "");
    await until(
      "the end of the loop device",
      () => readFileSync(`/sys/block/${name}/size`, "utf8") === "0\n",
    );
    await erofsNbdOk("detach", `${lower.device}`);
    await expectNothingAttached();
  });

  test("by a mount of a partition", async () => {
    const START = 2048;
    const image = readFileSync(files.image);
    const table = Buffer.alloc(START * 512);
    // One entry of an MBR: type 0x83, first sector, number of sectors.
    table[446 + 4] = 0x83;
    table.writeUInt32LE(START, 446 + 8);
    table.writeUInt32LE(Math.ceil(image.length / 512), 446 + 12);
    table.writeUInt16LE(0xaa55, 510);
    writeFileSync(files.at("disk"), Buffer.concat([table, image]));
    const result = await erofsNbd("attach", "--json", files.at("disk"));
    const disk = JSON.parse(result.stdout) as DeviceStatus;
    execFileSync("mount", ["-t", "erofs", "-o", "ro", `${disk.device}p1`, files.mountPoint]);
    try {
      await expectKept(disk, `it is mounted at ${files.mountPoint}`);
    } finally {
      execFileSync("umount", [files.mountPoint]);
    }
    await erofsNbdOk("detach", `${disk.device}`);
    await expectNothingAttached();
  });
});
