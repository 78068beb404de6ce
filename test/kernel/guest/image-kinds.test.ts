/**
 * One mount of each kind of image: layouts, block sizes, clusters, further devices. Every file is compared.
 *
 * Each image is shown to be of its kind by its superblock. Compressors other than LZ4 are in image-compressors.test.ts.
 * Runs inside a guest.
 */
import { lstatSync } from "node:fs";
import { expect, test } from "vitest";
import { imageKinds, SCAN_LINES } from "./image-kind.ts";
import { guarded } from "./leftovers.ts";
import { cleanUpAfterFailure } from "./product.ts";

const kinds = imageKinds();
// Subpage compression and the 48-bit layout are experimental to the kernel; two devices end at the same time.
guarded([
  /^erofs \(device nbd\d+\): EXPERIMENTAL/,
  /^block nbd\d+: Send disconnect failed -32$/,
  ...SCAN_LINES,
]);
cleanUpAfterFailure();

test.each([
  ["uncompressed", [], { compression: [], blockSizeBytes: 4096, extraDevices: 0 }],
  ["lz4", ["-zlz4"], { compression: ["lz4"] }],
  ["lz4hc, which is lz4 to the kernel", ["-zlz4hc"], { compression: ["lz4"] }],
  [
    "clusters of 64 KiB",
    ["-zlz4hc", "-C65536"],
    { incompatFeatures: expect.arrayContaining(["big_pcluster"]) },
  ],
  ["chunks", ["--chunksize=4096"], { incompatFeatures: expect.arrayContaining(["chunked_file"]) }],
] as const)("made by mkfs.erofs: %s", async (_, words, superblock) => {
  expect(kinds.make(...words)).toMatchObject(superblock);
  await kinds.expectTree();
});

test("made by mkfs.erofs: all files are root's", async () => {
  kinds.make("--all-root");
  expect(lstatSync(kinds.at("tree/empty")).uid).toBe(process.getuid?.());
  await kinds.expectTree();
});

test("made by mkfs.erofs: data on a further device", async () => {
  const words = ["--chunksize=4096", `--blobdev=${kinds.at("blob")}`];
  expect(kinds.make(...words)).toMatchObject({ extraDevices: 1 });
  await kinds.expectTree(`device=${kinds.at("blob")}`);
});

// mkfs.erofs 1.5, of Debian 12, has neither -b nor the 48-bit layout, and ignores fragments: committed images.
test.each([
  [
    "fragments-dedupe",
    { incompatFeatures: expect.arrayContaining(["fragments", "dedupe"]), compression: ["lz4"] },
  ],
  ["512-byte-blocks", { blockSizeBytes: 512, compression: [] }],
  ["512-byte-blocks-lz4", { blockSizeBytes: 512, compression: ["lz4"] }],
  ["48bit", { incompatFeatures: expect.arrayContaining(["48bit"]), compression: [] }],
] as const)("committed: %s", async (name, superblock) => {
  expect(kinds.unpack(name)).toMatchObject(superblock);
  await kinds.expectTree();
});
