/**
 * Mounts of images that are not simply one EROFS file system from the first byte of a file on: at an offset, or with
 * data on further devices.
 *
 * By `erofs-nbd mount`, by mount(8) and from fstab; a plain umount ends everything. Runs inside a guest.
 */
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { cliFixture, expectNothingAttached, expectRefusal, mountsAt } from "./cli-fixture.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import { useMountHelper } from "./mount-helper-link.ts";
import {
  allWorkers,
  attach,
  cleanUpAfterFailure,
  erofsNbd,
  erofsNbdOk,
  guardiansOf,
  killTogether,
  run,
  statuses,
  until,
} from "./product.ts";
import { treeSum } from "./tree-sum.ts";

const SERIES = process.env["EROFS_NBD_LAB_KERNEL"];
/** fs/erofs/super.c knows fsoffset from Linux 6.16 on. */
const HAS_FSOFFSET = SERIES === "7.2";
const OFFSET = 8192;

const files = cliFixture();
useMountHelper();

/** An image with other data before it. */
function makeDisk(): string {
  const disk = files.at("disk");
  writeFileSync(disk, Buffer.concat([Buffer.alloc(OFFSET, "before "), readFileSync(files.image)]));
  return disk;
}

async function expectMounted(): Promise<void> {
  expect(treeSum(files.mountPoint)).toBe(treeSum(files.at("tree")));
  expect(await run("umount", [files.mountPoint])).toMatchObject({ code: 0 });
  await expectNothingAttached();
}

describe("an image at an offset", () => {
  // The partition scan takes anything for a table.
  const guard = guarded([/^(Dev )?nbd\d+: (unable to read|partition table)/, /^ nbd\d+: /]);
  cleanUpAfterFailure();

  test("is mounted where the kernel can do it, and refused in the kernel's words where not", async () => {
    guard.expectKernelLog(/erofs/);
    const result = await erofsNbd("mount", "-o", `fsoffset=${OFFSET}`, makeDisk(), files.mountPoint);
    if (HAS_FSOFFSET) {
      expect(result).toMatchObject({ code: 0, stdout: "", stderr: "" });
      return expectMounted();
    }
    expectRefusal(result, 32, /this kernel refuses fsoffset=8192: Unknown parameter 'fsoffset'$/);
    expect(result.stderr).toMatch(/^hint: boot Linux 6\.16 or newer, or .* tail -c \+8193 FILE > IMAGE$/m);
    await expectNothingAttached();
  });

  test("is mounted by mount(8) and from fstab, or is not", async () => {
    guard.expectKernelLog(/erofs/);
    const options = `fsoffset=${OFFSET},noatime`;
    writeFileSync(files.at("fstab"), `${makeDisk()} ${files.mountPoint} erofs.nbd ${options} 0 0\n`);
    const byHand = ["-t", "erofs.nbd", "-o", options, makeDisk(), files.mountPoint];
    for (const words of [byHand, ["-a"]]) {
      const result = await run("mount", words, { LIBMOUNT_FSTAB: files.at("fstab") });
      if (HAS_FSOFFSET) {
        expect(result).toEqual({ code: 0, stdout: "", stderr: "" });
        await expectMounted();
      } else {
        expect(result).toMatchObject({ code: expect.toBeOneOf([32, 64]) });
        expect(result.stderr).toMatch(/Unknown parameter 'fsoffset'/);
        await expectNothingAttached();
      }
    }
  });

  test("is refused where there is none, and with a value that is none", async () => {
    const mount = (value: string) =>
      erofsNbd("mount", "-o", `fsoffset=${value}`, makeDisk(), files.mountPoint);
    expectRefusal(await mount("4096"), 1, /there is no EROFS image at offset 4096$/);
    expectRefusal(await mount("1048576000"), 1, /there is no EROFS image at offset 1048576000$/);
    expectRefusal(await mount("100"), 1, /invalid mount option fsoffset '100': expected a number of bytes/);
    expect(mountsAt(files.mountPoint)).toBe(0);
    await expectNothingAttached();
  });

  test("needs no option to be attached", async () => {
    const node = (await erofsNbd("attach", makeDisk())).stdout.trim();
    expect(readFileSync(node).subarray(OFFSET, OFFSET + 4096)).toEqual(
      readFileSync(files.image).subarray(0, 4096),
    );
    await erofsNbdOk("detach", node);
    await until("the end", () => mountsAt(files.mountPoint) === 0);
    await expectNothingAttached();
  });
});

describe("an image with data on further devices", () => {
  // Two last closes at the same time: the kernel sends a disconnect twice, the second to a closed socket.
  const guard = guarded([/^block nbd\d+: Send disconnect failed -32$/, /^(Dev )?nbd\d+: /, /^ nbd\d+: /]);
  cleanUpAfterFailure();

  beforeAll(() => {
    const words = ["--chunksize=4096", `--blobdev=${files.at("blob")}`];
    execFileSync("mkfs.erofs", [...words, files.at("meta"), files.at("tree")], { stdio: "ignore" });
  });

  const mountWith = (options: string): string[] => [
    "mount",
    "-o",
    options,
    files.at("meta"),
    files.mountPoint,
  ];

  async function expectTwoDevices(): Promise<void> {
    const devices = await statuses();
    expect(devices).toHaveLength(2);
    const main = devices.find(({ extraOf }) => extraOf === undefined);
    const extra = devices.find(({ extraOf }) => extraOf !== undefined);
    expect(main).toMatchObject({ state: "serving", mountPoints: [files.mountPoint] });
    expect(extra).toMatchObject({
      state: "serving",
      mountPoints: [files.mountPoint],
      extraOf: main?.device,
      source: { uri: files.at("blob") },
    });
  }

  test("is mounted with a device for each, and a plain umount ends all of them", async () => {
    await erofsNbdOk(...mountWith(`device=${files.at("blob")},noatime`));
    await expectTwoDevices();
    await expectMounted();
  });

  test("is mounted by mount(8) and from fstab, and unmounted by erofs-nbd umount", async () => {
    const options = `device=${files.at("blob")},noatime`;
    const line = `${files.at("meta")} ${files.mountPoint} erofs.nbd ${options} 0 0\n`;
    writeFileSync(files.at("fstab"), line);
    const byHand = ["-t", "erofs.nbd", "-o", options, files.at("meta"), files.mountPoint];
    const env = { LIBMOUNT_FSTAB: files.at("fstab") };
    for (const words of [byHand, ["-a"]]) {
      expect(await run("mount", words, env)).toEqual({ code: 0, stdout: "", stderr: "" });
      expect(await run("mount", ["-o", "remount,nodev", files.mountPoint], env)).toMatchObject({ code: 0 });
      await expectTwoDevices();
      expect(treeSum(files.mountPoint)).toBe(treeSum(files.at("tree")));
      await erofsNbdOk("umount", files.mountPoint);
      expect(await statuses()).toEqual([]);
      await expectNothingAttached();
    }
  });

  test("takes a device that is attached already, and leaves it attached", async () => {
    const blob = await attach(files.at("blob"));
    const words = ["-o", `device=${blob.device}`, files.at("meta"), files.mountPoint];
    await erofsNbdOk("mount", ...words);
    expect(treeSum(files.mountPoint)).toBe(treeSum(files.at("tree")));
    expect(await erofsNbd("detach", `${blob.device}`)).toMatchObject({ code: 2 });
    await erofsNbdOk("umount", files.mountPoint);
    expect(await statuses()).toMatchObject([{ device: blob.device }]);
    await erofsNbdOk("detach", `${blob.device}`);
    await expectNothingAttached();
  });

  test("keeps its devices while it is mounted", async () => {
    await erofsNbdOk(...mountWith(`device=${files.at("blob")}`));
    const [, extra] = await statuses();
    const refused = await erofsNbd("detach", `${extra?.device}`);
    expectRefusal(
      refused,
      2,
      new RegExp(`cannot detach nbd${extra?.index}: it is mounted at ${files.mountPoint}$`),
    );
    await expectMounted();
  });

  test("leaves nothing attached where it cannot be mounted", async () => {
    guard.expectKernelLog(/erofs/);
    const refused = async (code: number, message: RegExp, ...words: string[]): Promise<void> => {
      expectRefusal(await erofsNbd("mount", ...words, files.at("meta"), files.mountPoint), code, message);
      expect(mountsAt(files.mountPoint)).toBe(0);
      await expectNothingAttached();
    };
    const blob = files.at("blob");
    await refused(32, /it keeps data on 1 more device than this image$/);
    await refused(
      32,
      /on 1 more device than this image, and 2 are named$/,
      "-o",
      `device=${blob},device=${blob}`,
    );
    await refused(1, /cannot open image .*gone: there is no such file$/, "-o", `device=${files.at("gone")}`);
    // Attached, and refused by the kernel then.
    await refused(32, /bad option/, "-o", `device=${blob},no-such-option`);
    await erofsNbdOk(...mountWith(`device=${files.at("gone")},nofail`));
    expect(mountsAt(files.mountPoint)).toBe(0);
    await expectNothingAttached();
  });

  test("is served again after manager and workers have died", async () => {
    guard.expectKernelLog(...LINK_DEATH_LINES);
    await erofsNbdOk(...mountWith(`device=${files.at("blob")}`));
    const [main] = await statuses();
    const managerPid = main?.managerPid ?? 0;
    await until("a guardian", () => guardiansOf(managerPid).length === 1);
    await killTogether(...guardiansOf(managerPid), managerPid, ...allWorkers());
    execFileSync("sh", ["-c", "echo 3 > /proc/sys/vm/drop_caches"]);
    await erofsNbdOk("status");
    expect(treeSum(files.mountPoint)).toBe(treeSum(files.at("tree")));
    await expectTwoDevices();
    await expectMounted();
  });
});
