/**
 * One mount of an image of each compressor besides LZ4, where the kernel has it, and the refusal where it has not.
 *
 * The lab's kernels under User-Mode Linux are built without these; the distribution's kernel (6.12-smp) has them. Runs
 * inside a guest.
 */
import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { expectNothingAttached, expectRefusal, mountsAt } from "./cli-fixture.ts";
import { imageKinds, SCAN_LINES } from "./image-kind.ts";
import { guarded } from "./leftovers.ts";
import { cleanUpAfterFailure, erofsNbd } from "./product.ts";

/** CONFIG_EROFS_FS_ZIP_LZMA, _DEFLATE and _ZSTD. */
const HAS_COMPRESSORS = process.env["EROFS_NBD_LAB_KERNEL"] === "6.12-smp";
const HAS_48BIT = existsSync("/sys/fs/erofs/features/48bit");

const kinds = imageKinds();
const guard = guarded([/^erofs:? \(device nbd\d+\): EXPERIMENTAL/, ...SCAN_LINES]);
cleanUpAfterFailure();

async function expectRefused(message: RegExp): Promise<void> {
  expectRefusal(await erofsNbd("mount", kinds.at("image"), kinds.at("mnt")), 32, message);
  expect(mountsAt(kinds.at("mnt"))).toBe(0);
  await expectNothingAttached();
}

test.each([
  ["lzma", 1],
  ["deflate", 2],
  ["zstd", 3],
])("%s is mounted by a kernel that has it, and refused by one without", async (name, algorithm) => {
  expect(kinds.unpack(name).compression).toEqual([name]);
  if (HAS_COMPRESSORS) return kinds.expectTree();
  guard.expectKernelLog(new RegExp(`algorithm ${algorithm} isn't enabled on this kernel`));
  await expectRefused(/Operation not supported/);
});

test("zstd in the 48-bit layout, with clusters of 64 KiB, fragments and dedupe, is refused: no kernel of the lab has both", async () => {
  const { compression, incompatFeatures } = kinds.unpack("48bit-zstd");
  expect(compression).toEqual(["zstd"]);
  expect(incompatFeatures).toEqual(expect.arrayContaining(["48bit", "big_pcluster", "fragments", "dedupe"]));
  if (HAS_48BIT) guard.expectKernelLog(/algorithm 3 isn't enabled on this kernel/);
  await expectRefused(HAS_48BIT ? /Operation not supported/ : /it needs 48bit \(Linux 6\.15\)/);
});
