/**
 * Which kernels mount which images: the table of features, and the sentences made of it.
 */

import { describe, expect, it } from "vitest";
import { incompatNames, unknownIncompat } from "../../../src/erofs/features.ts";
import { checkMountable, type MountProblem } from "../../../src/erofs/mountable.ts";
import { parseSuperblock, type Superblock } from "../../../src/erofs/superblock.ts";
import { headWith, type SuperblockFields } from "../../helpers/images/superblock-bytes.ts";

const image = (fields: SuperblockFields): Superblock => parseSuperblock(headWith(fields));
const messages = (problems: readonly MountProblem[]): string[] => problems.map((problem) => problem.message);

describe("checkMountable", () => {
  it.each([
    ["zero_padding", { featureIncompat: 0x1 }, "5.4"],
    ["compr_cfgs", { featureIncompat: 0x2 }, "5.13"],
    ["chunked_file", { featureIncompat: 0x4 }, "5.15"],
    ["device_table", { featureIncompat: 0x8 }, "5.16"],
    ["ztailpacking", { featureIncompat: 0x10 }, "5.17"],
    ["fragments", { featureIncompat: 0x20 }, "6.1"],
    ["xattr_prefixes", { featureIncompat: 0x40 }, "6.4"],
    ["48bit", { featureIncompat: 0x80 }, "6.15"],
    ["metabox", { featureIncompat: 0x100 }, "6.17"],
    ["lz4", { featureIncompat: 0x2, algorithms: 1 }, "5.13"],
    ["lzma", { featureIncompat: 0x2, algorithms: 2 }, "5.16"],
    ["deflate", { featureIncompat: 0x2, algorithms: 4 }, "6.6"],
    ["zstd", { featureIncompat: 0x2, algorithms: 8 }, "6.10"],
  ])("lets %s begin with the right release", (name, fields, since) => {
    const [major = 0, minor = 0] = since.split(".").map(Number);
    const before = minor === 0 ? `${major - 1}.99` : `${major}.${minor - 1}`;
    const superblock = image(fields);
    expect(checkMountable(superblock, `${since}.0-1-amd64`)).toEqual([]);
    expect(checkMountable(superblock, `${major + 1}.0.0`)).toEqual([]);
    const [problem, ...more] = checkMountable(superblock, `${before}.7`);
    expect(more).toEqual([]);
    expect(problem?.kind).toBe("kernel-too-old");
    if (name !== "zero_padding" && name !== "lz4")
      expect(problem?.message).toContain(`${name} (Linux ${since})`);
  });

  it("names everything that is missing, the kernel, and the release to boot", () => {
    const superblock = image({ featureIncompat: 0x1 | 0x2 | 0x10 | 0x20, algorithms: 0b1001 });
    expect(checkMountable(superblock, "5.15.0-91-generic")).toEqual([
      {
        kind: "kernel-too-old",
        message:
          "it needs ztailpacking (Linux 5.17), fragments (Linux 6.1), zstd (Linux 6.10), " +
          "and this is Linux 5.15.0-91-generic",
        hint: "boot Linux 6.10 or newer, or make the image again without these features",
      },
    ]);
  });

  it("says of a kernel without EROFS only that", () => {
    expect(messages(checkMountable(image({ featureIncompat: 0x180 }), "4.19.0"))).toEqual([
      "it needs erofs (Linux 5.4), and this is Linux 4.19.0",
    ]);
  });

  it("believes the kernel's own list of features more than its release", () => {
    const superblock = image({ featureIncompat: 0x10 | 0x20 });
    expect(
      checkMountable(superblock, "5.14.0-570.el9", { features: ["ztailpacking", "fragments", "dedupe"] }),
    ).toEqual([]);
    expect(messages(checkMountable(superblock, "5.14.0-570.el9", { features: ["ztailpacking"] }))).toEqual([
      "it needs fragments (Linux 6.1), and this is Linux 5.14.0-570.el9",
    ]);
  });

  it("rules nothing out when the release cannot be read", () => {
    expect(checkMountable(image({ featureIncompat: 0x1ff, algorithms: 15 }), "mainline")).toEqual([]);
  });

  it("names bits it does not know", () => {
    const problems = checkMountable(image({ featureIncompat: 0x8000_0201 }), "6.17.0");
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatchObject({
      kind: "unknown-feature",
      message: "it uses incompatible features 0x80000200, which no known kernel supports",
    });
  });

  it("compares the block size with the page size", () => {
    const small = image({ blockBits: 10 });
    const smallLz4 = image({ blockBits: 10, featureIncompat: 1 });
    const large = image({ blockBits: 14 });
    expect(messages(checkMountable(small, "6.3.0"))).toEqual([
      "its blocks of 1024 bytes are smaller than this kernel's pages of 4096, which needs Linux 6.4",
    ]);
    expect(checkMountable(small, "6.4.0")).toEqual([]);
    expect(messages(checkMountable(smallLz4, "6.7.0"))).toEqual([
      "its compressed blocks of 1024 bytes are smaller than this kernel's pages of 4096, which needs Linux 6.8",
    ]);
    expect(checkMountable(smallLz4, "6.8.0")).toEqual([]);
    expect(checkMountable(large, "6.17.0")).toMatchObject([
      {
        kind: "block-size",
        message: "its blocks of 16384 bytes are larger than this kernel's pages of 4096",
        hint: "make the image again with mkfs.erofs -b 4096",
      },
    ]);
    expect(checkMountable(large, "6.17.0", { pageSizeBytes: 16384 })).toEqual([]);
  });

  it("says that a multi-device image needs its other devices", () => {
    const one = checkMountable(image({ featureIncompat: 0x8, extraDevices: 1 }), "6.1.0");
    expect(one).toMatchObject([
      { kind: "extra-devices", message: "it keeps data on 1 more device than this image" },
    ]);
    expect(one[0]?.hint).toContain("-o device=");
    const three = checkMountable(image({ featureIncompat: 0x8, extraDevices: 3 }), "6.1.0");
    expect(messages(three)).toEqual(["it keeps data on 3 more devices than this image"]);
  });

  it("counts the images that are named for further devices", () => {
    const two = image({ featureIncompat: 0x8, extraDevices: 2 });
    expect(checkMountable(two, "6.1.0", { extraDevices: 2 })).toEqual([]);
    expect(messages(checkMountable(two, "6.1.0", { extraDevices: 1 }))).toEqual([
      "it keeps data on 2 more devices than this image, and 1 is named",
    ]);
    expect(messages(checkMountable(image({}), "6.1.0", { extraDevices: 3 }))).toEqual([
      "it keeps data on 0 more devices than this image, and 3 are named",
    ]);
  });

  it("refuses directory blocks of another size", () => {
    expect(checkMountable(image({ directoryBlockBits: 2 }), "6.17.0")).toMatchObject([
      { kind: "directory-blocks" },
    ]);
  });
});

describe("feature names", () => {
  it("give both meanings of a shared bit, and the value of an unknown one", () => {
    expect(incompatNames(0x28 | 0x4000_0000)).toEqual([
      "device_table",
      "compr_head2",
      "fragments",
      "dedupe",
      "0x40000000",
    ]);
    expect([unknownIncompat(0x1ff), unknownIncompat(0xffff_ffff)]).toEqual([0, 0xffff_fe00]);
  });
});
