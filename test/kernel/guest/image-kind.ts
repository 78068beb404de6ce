/**
 * Images of one tree in every kind: made by the machine's mkfs.erofs, or unpacked from test/fixtures/images.
 *
 * Used by the tests that mount one of each kind and compare the tree.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, expect } from "vitest";
import { parseSuperblock, type Superblock } from "../../../src/erofs/superblock.ts";
import { fillTree } from "../../fixtures/images/make.mjs";
import { ensureMkfs } from "../../helpers/images/erofs-image.ts";
import { expectNothingAttached } from "./cli-fixture.ts";
import { erofsNbdOk } from "./product.ts";
import { treeSum } from "./tree-sum.ts";

/** The partition scan takes small images, and data without a superblock, for tables. */
export const SCAN_LINES: readonly RegExp[] = [
  /^(Dev )?nbd\d+: (unable to read|partition table)/,
  /^ nbd\d+: /,
];

export interface ImageKinds {
  at(name: string): string;
  /** By mkfs.erofs with these words. */
  make(...words: string[]): Superblock;
  /** A committed one. */
  unpack(name: string): Superblock;
  /** Mounts the image that was made last, compares every file, and unmounts it. */
  expectTree(options?: string): Promise<void>;
}

/** Call once per file. */
export function imageKinds(): ImageKinds {
  let directory = "";
  const at = (name: string): string => join(directory, name);
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "kinds-"));
    for (const name of ["tree", "mnt"]) mkdirSync(at(name));
    fillTree(at("tree"));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const superblock = (): Superblock => parseSuperblock(readFileSync(at("image")));
  return {
    at,
    make: (...words) => {
      ensureMkfs();
      rmSync(at("image"), { force: true });
      execFileSync("mkfs.erofs", [...words, at("image"), at("tree")], { stdio: "ignore" });
      return superblock();
    },
    unpack: (name) => {
      const packed = readFileSync(new URL(`../../fixtures/images/${name}.erofs.gz`, import.meta.url));
      writeFileSync(at("image"), gunzipSync(packed));
      return superblock();
    },
    expectTree: async (options = "noatime") => {
      await erofsNbdOk("mount", "-o", options, at("image"), at("mnt"));
      expect(treeSum(at("mnt"))).toBe(treeSum(at("tree")));
      await erofsNbdOk("umount", at("mnt"));
      await expectNothingAttached();
    },
  };
}
