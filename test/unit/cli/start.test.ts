/**
 * What a start loads, as counts: the files that are opened, and the packages that none of a short command's are of.
 *
 * A file is found, opened, read and compiled, which takes longer than what most of them do. So the programs that are
 * waited for are one file each (tools/bundle.mjs), and native code is loaded only where it is used.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { PROGRAMS } from "../../../tools/programs.mjs";
import { CLI, MOUNT_HELPER, runCli } from "./run-cli.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const MAIN = "dist/src/cli/main.cjs";
const BUNDLES = PROGRAMS.map(({ file }) => `dist/${file}`);
const directory = mkdtempSync(join(tmpdir(), "cli-start-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** The files of the package and of others that a command loads, without those of Node; native ones among them. */
async function filesLoadedBy(words: readonly string[], program = CLI): Promise<string[]> {
  const env = { NODE_DEBUG: "module,esm", EROFS_NBD_RUN_DIR: join(directory, "run") };
  const { stderr } = await runCli(words, { env, program });
  const named = stderr.matchAll(
    /(?:load "|Storing file:\/\/|loading file:\/\/)(\/[^"\s]+\.(?:[cm]?js|node))/g,
  );
  return [...new Set([...named].map((match) => match[1] ?? ""))].map((path) => path.replace(ROOT, "")).sort();
}

/** Those that are not what the build has made one file of. With a code cache a bundle is loaded past Node's loader. */
const besideBundles = (files: readonly string[]): string[] => files.filter((path) => !BUNDLES.includes(path));

test.each<[string, readonly string[]]>([
  ["--version", ["--version"]],
  ["--help", ["--help"]],
  ["status", ["status"]],
  ["attach --help", ["attach", "--help"]],
  ["detach --all", ["-v", "--run-dir", "/nowhere/x", "detach", "--all"]],
])("%s loads no file but its bundle", async (_, words) => {
  const files = await filesLoadedBy(words);
  expect(files).toContain(MAIN);
  expect(besideBundles(files)).toEqual([]);
});

test("the help of the mount helper loads no file but its bundle", async () => {
  const files = await filesLoadedBy(["--help"], MOUNT_HELPER);
  expect(files).toEqual(["dist/src/cli/mount-helper.cjs"]);
});

test("the manager loads its bundle, and the package with native code", async () => {
  const files = besideBundles(await filesLoadedBy(["manager", "--help"]));
  expect(files.filter((path) => !/^node_modules\/(koffi|@koromix)\//.test(path))).toEqual([]);
  expect(files.length).toBeGreaterThan(0);
});

test("a command outside the bundles still works, and loads the files as they are", async () => {
  const files = await filesLoadedBy(["serve", "--help"]);
  expect(files).toContain("dist/src/cli/commands/serve.js");
  expect(files.length).toBeGreaterThan(50);
});
