/**
 * Mounts of images that are not simply one EROFS file system from the first byte of a file on: at an offset.
 *
 * By `erofs-nbd mount`, by mount(8) and from fstab; a plain umount ends everything. Runs inside a guest.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { cliFixture, expectNothingAttached, expectRefusal, mountsAt } from "./cli-fixture.ts";
import { guarded } from "./leftovers.ts";
import { useMountHelper } from "./mount-helper-link.ts";
import { cleanUpAfterFailure, erofsNbd, erofsNbdOk, run, until } from "./product.ts";
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
