/**
 * The superblock reader against images of the real mkfs.erofs, superblocks written by hand, damage, and noise.
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { crc32c } from "../../../src/erofs/crc32c.ts";
import {
  checkImageSize,
  imageSizeBytes,
  looksLikeErofs,
  parseSuperblock,
} from "../../../src/erofs/superblock.ts";
import { ErofsNbdError } from "../../../src/errors.ts";
import { type ErofsImage, fillDirectory, makeImage } from "../../helpers/images/erofs-image.ts";
import { headWith } from "../../helpers/images/superblock-bytes.ts";

/** The code and message of what an action throws. */
function refusal(action: () => unknown): { code: string; message: string } {
  try {
    action();
  } catch (error) {
    if (error instanceof ErofsNbdError) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("crc32c", () => {
  it("gives the published check value, and goes on from a seed", () => {
    const digits = new TextEncoder().encode("123456789");
    expect((crc32c(0xffffffff, digits) ^ 0xffffffff) >>> 0).toBe(0xe3069283);
    expect(crc32c(crc32c(0xffffffff, digits.subarray(0, 4)), digits.subarray(4))).toBe(
      crc32c(0xffffffff, digits),
    );
  });
});

describe("parseSuperblock on images of mkfs.erofs", () => {
  let directory: string;
  let plain: ErofsImage;
  let compressed: ErofsImage;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "erofs-nbd-superblock-"));
    fillDirectory(join(directory, "tree"), 20, 400_000);
    plain = await makeImage(join(directory, "plain.erofs"), join(directory, "tree"));
    compressed = await makeImage(join(directory, "lz4.erofs"), join(directory, "tree"), {
      arguments: ["-zlz4", "-C65536"],
    });
  }, 120_000);

  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it("agrees with dump.erofs and with the file's size", () => {
    for (const image of [plain, compressed]) {
      const superblock = parseSuperblock(readFileSync(image.path));
      const dump = execFileSync("dump.erofs", ["-s", image.path], { encoding: "utf8" });
      const told = (label: string): string => new RegExp(`${label}:\\s+(.*\\S)`).exec(dump)?.[1] ?? "";
      expect(String(superblock.blocks)).toBe(told("Filesystem blocks"));
      expect(String(superblock.rootNid)).toBe(told("Filesystem root nid"));
      expect(String(superblock.inodes)).toBe(told("Filesystem inode count"));
      expect(superblock.uuid).toBe(told("Filesystem UUID"));
      expect(superblock.buildTimeSeconds).toBe(1_700_000_000);
      expect(superblock.checksum).toBe("ok");
      expect(superblock.blockSizeBytes).toBe(4096);
      expect(imageSizeBytes(superblock)).toBe(image.sizeBytes);
    }
  });

  it("names what the images need", () => {
    const uncompressed = parseSuperblock(readFileSync(plain.path));
    expect([uncompressed.compression, uncompressed.incompatFeatures]).toEqual([[], []]);
    expect(uncompressed.compatFeatures).toContain("sb_chksum");
    const lz4 = parseSuperblock(readFileSync(compressed.path));
    expect(lz4.compression).toEqual(["lz4"]);
    expect(lz4.incompatFeatures).toEqual(["zero_padding", "compr_cfgs", "big_pcluster"]);
  });

  it("finds every changed byte of the superblock, and of the rest of its block", () => {
    const head = readFileSync(plain.path).subarray(0, 4096);
    for (let at = 1024; at < 4096; at += at < 1152 ? 1 : 97) {
      const damaged = Uint8Array.from(head);
      damaged[at] = (damaged[at] ?? 0) ^ 0x10;
      // The checksum's own feature bit is at 1032: without it there is nothing to find.
      expect(["ERR_IMAGE", "ERR_NOT_EROFS"], `byte ${at}`).toContain(
        refusal(() => parseSuperblock(damaged)).code,
      );
    }
  });

  it("refuses a truncated image with both sizes, and takes a longer one", () => {
    const superblock = parseSuperblock(readFileSync(plain.path));
    const size = plain.sizeBytes;
    expect(refusal(() => checkImageSize(superblock, size - 1, "/a/b.erofs"))).toEqual({
      code: "ERR_IMAGE",
      message:
        `cannot use /a/b.erofs: it is truncated, its superblock promises ${size} bytes ` +
        `(${size / 4096} blocks of 4096) and it has ${size - 1}`,
    });
    checkImageSize(superblock, size, "x");
    checkImageSize(superblock, size + 12345, "x");
  });
});

describe("parseSuperblock on superblocks written by hand", () => {
  it("reads every field", () => {
    const head = headWith({
      featureCompat: 0x1 | 0x2 | 0x4 | 0x8000_0000,
      blocksLow: 0xfedcba98,
      inodes: 0xffff_ffff_ffff_ffffn,
      epochSeconds: 1_600_000_000n,
      buildTimeSeconds: 77,
      uuid: "01234567-89ab-cdef-0123-456789abcdef",
      volumeName: "röot",
      featureIncompat: 0x1 | 0x2 | 0x8,
      algorithms: 0b1_1011,
      extraDevices: 3,
      directoryBlockBits: 1,
    });
    expect(parseSuperblock(head)).toEqual({
      blockSizeBytes: 4096,
      blocks: 0xfedcba98,
      featureCompat: 0x8000_0007,
      featureIncompat: 0xb,
      compatFeatures: ["sb_chksum", "mtime", "xattr_filter", "0x80000000"],
      incompatFeatures: ["zero_padding", "compr_cfgs", "big_pcluster", "device_table", "compr_head2"],
      compression: ["lz4", "lzma", "zstd", "algorithm 4"],
      extraDevices: 3,
      directoryBlockBits: 1,
      uuid: "01234567-89ab-cdef-0123-456789abcdef",
      volumeName: "röot",
      buildTimeSeconds: 1_600_000_077,
      inodes: 0xffff_ffff_ffff_ffffn,
      rootNid: 36n,
      checksum: "ok",
    });
  });

  it("takes the 48-bit block count only with the feature and a root in its new place", () => {
    const fields = { blocksLow: 5, rootNidOrBlocksHigh: 2, featureIncompat: 0x80 };
    const wide = parseSuperblock(headWith({ ...fields, rootNid8: 1n << 40n }));
    expect([wide.blocks, wide.rootNid]).toEqual([2 ** 33 + 5, 1n << 40n]);
    expect(imageSizeBytes(wide)).toBe((2 ** 33 + 5) * 4096);
    const rooted = parseSuperblock(headWith(fields));
    expect([rooted.blocks, rooted.rootNid]).toEqual([5, 2n]);
    const old = parseSuperblock(headWith({ ...fields, featureIncompat: 0, rootNid8: 9n }));
    expect([old.blocks, old.rootNid]).toEqual([5, 2n]);
  });

  it("tells LZ4 from no compression where there is no list of algorithms", () => {
    expect(parseSuperblock(headWith({})).compression).toEqual([]);
    expect(parseSuperblock(headWith({ featureIncompat: 1 })).compression).toEqual(["lz4"]);
    expect(parseSuperblock(headWith({ algorithms: 65535 })).compression).toEqual(["lz4"]);
  });

  it("counts extra devices only with a device table", () => {
    expect(parseSuperblock(headWith({ extraDevices: 3 })).extraDevices).toBe(0);
  });

  it("cuts a volume name at NUL or at 16 bytes, and keeps it printable", () => {
    const named = (volumeName: string): string => parseSuperblock(headWith({ volumeName })).volumeName;
    expect(named("abc\0def")).toBe("abc");
    expect(named("0123456789abcdef")).toBe("0123456789abcdef");
    expect(named("a\u001b[2J")).toBe("a\ufffd[2J");
  });

  it.each([
    [9, 4096],
    [10, 4096],
    [11, 4096],
    [12, 4096],
    [14, 16384],
    [16, 65536],
  ])("checks the checksum of a block of 2^%i bytes", (blockBits, headBytes) => {
    const head = headWith({ blockBits, featureCompat: 1 }, headBytes);
    expect(parseSuperblock(head)).toMatchObject({ checksum: "ok", blockSizeBytes: 2 ** blockBits });
    const last = Math.max(headBytes === 4096 ? 1024 + Math.min(2 ** blockBits, 512) : headBytes, 1536) - 1;
    head[last] = 1;
    expect(refusal(() => parseSuperblock(head)).message).toMatch(
      /^cannot use the EROFS image: the superblock's checksum is 0x/,
    );
  });

  it("says when it has too little for the checksum", () => {
    const head = headWith({ blockBits: 14, featureCompat: 1 }, 16384);
    expect(parseSuperblock(head.subarray(0, 4096)).checksum).toBe("beyond-head");
    expect(parseSuperblock(headWith({})).checksum).toBe("absent");
  });

  it.each([
    [{ blockBits: 8 }, "cannot use the EROFS image: its block size is 2^8 bytes"],
    [{ blockBits: 17 }, "cannot use the EROFS image: its block size is 2^17 bytes"],
    [{ extensionSlots: 255 }, "cannot use the EROFS image: the superblock claims 4208 bytes"],
    [
      { blocksLow: 0xffffffff, rootNidOrBlocksHigh: 0xffff, featureIncompat: 0x80, rootNid8: 1n },
      "cannot use the EROFS image: it claims 281474976710655 blocks of 4096 bytes, more than 2^53 bytes",
    ],
  ])("refuses damage (%#)", (fields, message) => {
    expect(refusal(() => parseSuperblock(headWith(fields)))).toEqual({ code: "ERR_IMAGE", message });
  });

  it("tells what is no EROFS from what is cut off", () => {
    const head = headWith({});
    expect(refusal(() => parseSuperblock(new Uint8Array(0)))).toEqual({
      code: "ERR_NOT_EROFS",
      message: "cannot use the image as EROFS: 0 bytes are too few for a superblock",
    });
    expect(refusal(() => parseSuperblock(headWith({ magic: 0xe2e1f5e0 })))).toEqual({
      code: "ERR_NOT_EROFS",
      message: "cannot use the image as EROFS: there is no EROFS magic at offset 1024",
    });
    expect(refusal(() => parseSuperblock(head.subarray(0, 1151)))).toEqual({
      code: "ERR_IMAGE",
      message: "cannot use the EROFS image: it ends inside its superblock",
    });
    expect(parseSuperblock(head.subarray(0, 1152)).blocks).toBe(0);
    expect([looksLikeErofs(head), looksLikeErofs(head.subarray(0, 1027))]).toEqual([true, false]);
  });

  it("leaves the bytes it is given alone, also in a Buffer", () => {
    const buffer = Buffer.from(headWith({ featureCompat: 1 }));
    const before = Buffer.from(buffer);
    parseSuperblock(buffer);
    expect(buffer.equals(before)).toBe(true);
  });

  it("asks no size of an image that does not tell its blocks", () => {
    checkImageSize(parseSuperblock(headWith({})), 0, "x");
  });

  it("reads a head that is a window into a larger buffer", () => {
    const larger = new Uint8Array(8192).fill(0xee);
    larger.set(headWith({ blocksLow: 9, featureCompat: 1 }), 100);
    expect(parseSuperblock(larger.subarray(100, 4196))).toMatchObject({ blocks: 9, checksum: "ok" });
  });

  it("refuses noise, or reads it, and does nothing else", () => {
    const noise = fc.uint8Array({ minLength: 0, maxLength: 4096, size: "max" });
    fc.assert(
      fc.property(noise, fc.boolean(), fc.integer({ min: 9, max: 16 }), (bytes, withMagic, blockBits) => {
        const head = Uint8Array.from(bytes);
        if (withMagic && head.length > 1036) {
          new DataView(head.buffer).setUint32(1024, 0xe0f5e1e2, true);
          head[1036] = blockBits;
        }
        try {
          const superblock = parseSuperblock(head);
          expect(Number.isSafeInteger(imageSizeBytes(superblock))).toBe(true);
        } catch (error) {
          expect(error).toBeInstanceOf(ErofsNbdError);
        }
      }),
      { numRuns: 300 },
    );
  });
});
