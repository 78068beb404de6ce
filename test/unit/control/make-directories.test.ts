/** makeDirectories of run-dir-trust.ts: what is created, and the errno where nothing can be. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { asRunDirError, chooseRunDir, explainFileError } from "../../../src/control/run-dir.ts";
import { makeDirectories } from "../../../src/control/run-dir-trust.ts";

let base: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "erofs-nbd-directories-"));
});
afterEach(() => rmSync(base, { recursive: true }));

test("what is missing is created with the mode, from the top, and what exists stays", () => {
  const path = join(base, "a/b/c");
  mkdirSync(join(base, "a"), { mode: 0o755 });
  expect(makeDirectories(path, 0o700)).toEqual([join(base, "a/b"), path]);
  expect(statSync(path).mode & 0o777).toBe(0o700);
  expect(statSync(join(base, "a")).mode & 0o777).toBe(0o755);
  expect(makeDirectories(path, 0o700)).toEqual([]);
});

test("a link to a directory is one, a file is not, and a link that leads nowhere is reported", () => {
  symlinkSync(base, join(base, "link"));
  expect(makeDirectories(join(base, "link"), 0o700)).toEqual([]);
  writeFileSync(join(base, "file"), "");
  expect(() => makeDirectories(join(base, "file"), 0o700)).toThrow(/EEXIST/);
  expect(() => makeDirectories(join(base, "file/below"), 0o700)).toThrow(/ENOTDIR/);
  symlinkSync(join(base, "nowhere"), join(base, "dangling"));
  expect(() => makeDirectories(join(base, "dangling/below"), 0o700)).toThrow(/EEXIST/);
  expect(existsSync(join(base, "nowhere"))).toBe(false);
});

test("a file system that has no such entries is reported, and not tried for ever", () => {
  for (const path of ["/proc/x", "/proc/x/y"]) expect(whyNot(path)).toBe("/proc allows no such entry");
});

test("a read-only file system is named so, which is not the image's, and root is no help against it", () => {
  const refused = (code: string): unknown =>
    asRunDirError(chooseRunDir("/somewhere"), Object.assign(new Error(code), { code, path: "/somewhere" }));
  expect(refused("EROFS")).toMatchObject({
    code: "ERR_RUN_DIR",
    message: "cannot use run directory /somewhere: its file system is read-only",
    hint: "name another directory with --run-dir",
  });
  expect(refused("EACCES")).toMatchObject({
    message: "cannot use run directory /somewhere: permission denied",
    hint: "run as root, or name a writable directory with --run-dir",
  });
});

function whyNot(path: string): string {
  try {
    makeDirectories(path, 0o700);
    return "it was created";
  } catch (error) {
    return explainFileError(error);
  }
}
