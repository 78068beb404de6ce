/**
 * cacheEntry: prepared once, seen whole or not at all, and a dead owner's lock blocks no other.
 */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { cacheEntry, cacheRoot } from "../../kernel/lab/image/cache.mjs";

describe("cacheEntry", () => {
  let before: string | undefined;
  let root = "";

  beforeEach(() => {
    before = process.env["EROFS_NBD_LAB_CACHE"];
    root = mkdtempSync(join(tmpdir(), "lab-cache-test-"));
    process.env["EROFS_NBD_LAB_CACHE"] = root;
  });

  afterEach(() => {
    if (before === undefined) delete process.env["EROFS_NBD_LAB_CACHE"];
    else process.env["EROFS_NBD_LAB_CACHE"] = before;
    rmSync(root, { recursive: true, force: true });
  });

  test("prepares an entry once, however many ask at the same time", async () => {
    let prepared = 0;
    const prepare = async (directory: string): Promise<void> => {
      prepared += 1;
      writeFileSync(join(directory, "half"), "1");
      await new Promise((done) => setImmediate(done));
      expect(existsSync(join(cacheRoot(), "entry"))).toBe(false); // a draft is never seen
      writeFileSync(join(directory, "whole"), "2");
    };
    const paths = await Promise.all([
      cacheEntry("entry", prepare),
      cacheEntry("entry", prepare),
      cacheEntry("entry", prepare),
    ]);
    expect(prepared).toBe(1);
    expect(new Set(paths)).toEqual(new Set([join(cacheRoot(), "entry")]));
    expect(readFileSync(join(cacheRoot(), "entry", "whole"), "utf8")).toBe("2");
    expect(readdirSync(cacheRoot())).toEqual(["entry"]); // no lock, no draft
  });

  test("leaves nothing when preparing fails, and the next try succeeds", async () => {
    const failing = cacheEntry("entry", () => Promise.reject(new Error("no network")));
    await expect(failing).rejects.toThrow("no network");
    expect(readdirSync(cacheRoot())).toEqual([]);
    await cacheEntry("entry", () => Promise.resolve());
    expect(readdirSync(cacheRoot())).toEqual(["entry"]);
  });

  test("breaks the lock of a process that is gone", async () => {
    const { pid } = spawnSync("true");
    mkdirSync(cacheRoot(), { recursive: true });
    writeFileSync(join(cacheRoot(), "entry.lock"), `${pid}\n`);
    await cacheEntry("entry", () => Promise.resolve());
    expect(readdirSync(cacheRoot())).toEqual(["entry"]);
  });
});
