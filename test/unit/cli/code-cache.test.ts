/** A code cache is code: its owner and mode are checked, it must match the bundle, and it is optional. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Script } from "node:vm";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readCodeCache } from "../../../src/cli/code-cache.ts";

const BUILT = fileURLToPath(new URL("../../../dist/src/", import.meta.url));
const SUM = "0123456789abcdef";
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "code-cache-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe("a cache is used", () => {
  let bundle: string;
  let cache: string;
  beforeEach(() => {
    bundle = join(directory, "x.cjs");
    cache = `${bundle}.${SUM}-${process.version}.cache`;
    writeFileSync(bundle, "");
    writeFileSync(cache, "code", { mode: 0o644 });
    chmodSync(cache, 0o644);
  });
  const used = (): string | undefined => readCodeCache(bundle, SUM)?.toString();

  test("if it has the bundle's owner, who alone may write it", () => {
    expect(used()).toBe("code");
  });

  test.each([
    ["others may write it", () => chmodSync(cache, 0o646)],
    ["a group may write it", () => chmodSync(cache, 0o664)],
    ["there is none", () => rmSync(cache)],
    ["it is of another Node", () => renameSync(cache, `${bundle}.${SUM}-v1.2.3.cache`)],
    ["it is of another bundle", () => renameSync(cache, cache.replace(SUM, "f".repeat(16)))],
    [
      "it is a link",
      () => {
        renameSync(cache, `${cache}.real`);
        symlinkSync(`${cache}.real`, cache);
      },
    ],
  ])("but not if %s", (_, spoil) => {
    spoil();
    expect(used()).toBeUndefined();
  });

  test.runIf(process.getuid?.() === 0)("but not if it belongs to another user, even for root", () => {
    chownSync(cache, 65_534, 65_534);
    expect(used()).toBeUndefined();
  });
});

describe("what the build leaves", () => {
  test.each(["cli/client.cjs", "manager/main.cjs"])("fits %s", (name) => {
    const path = join(BUILT, name);
    const file = readdirSync(join(path, "..")).find(
      (one) => one.endsWith(`-${process.version}.cache`) && one.startsWith(name.split("/")[1] ?? ""),
    );
    const text = `(function (exports, require, module, __filename, __dirname) { ${readFileSync(path, "utf8")}\n});`;
    const cachedData = readFileSync(join(path, "..", file ?? "missing"));
    expect(new Script(text, { filename: path, cachedData }).cachedDataRejected).toBe(false);
  });

  test("is not needed: a cache that is broken, and none, change nothing", () => {
    const programs = join(directory, "dist/src/cli");
    mkdirSync(programs, { recursive: true });
    for (const name of readdirSync(join(BUILT, "cli")).filter((one) => /^(main|client)\.cjs/.test(one)))
      cpSync(join(BUILT, "cli", name), join(programs, name));
    const help = (): string =>
      execFileSync(process.execPath, [join(programs, "main.cjs"), "--help"], { encoding: "utf8" });
    const first = help();
    expect(first).toContain("Usage: erofs-nbd");
    for (const name of readdirSync(programs).filter((one) => one.endsWith(".cache"))) {
      writeFileSync(join(programs, name), "not what V8 has made");
      expect(help()).toBe(first);
      rmSync(join(programs, name));
      expect(help()).toBe(first);
    }
  });
});
