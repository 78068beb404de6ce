/**
 * What a start loads, as counts: the files that are opened, and the packages that none of a short command's are of.
 *
 * A file is found, opened, read and compiled, which takes longer than what most of them do. So the programs that are waited for are one
 * file each (tools/bundle.mjs), and native code is loaded only where it is used.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { CLI, MOUNT_HELPER, runCli } from "./run-cli.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
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

const MAIN = "dist/src/cli/main.cjs";
const CLIENT = "dist/src/cli/client.cjs";

test.each<[string, readonly string[], readonly string[]]>([
  ["--version", ["--version"], [MAIN]],
  ["--help", ["--help"], [CLIENT, MAIN]],
  ["status", ["status"], [CLIENT, MAIN]],
  ["attach --help", ["attach", "--help"], [CLIENT, MAIN]],
  ["detach --all", ["-v", "--run-dir", "/nowhere/x", "detach", "--all"], [CLIENT, MAIN]],
])("%s loads no other file", async (_, words, files) => {
  expect(await filesLoadedBy(words)).toEqual(files);
});

test.each<[string, readonly string[], string, readonly string[]]>([
  ["the manager", ["manager", "--help"], CLI, [MAIN, "dist/src/manager/main.cjs"]],
  ["the mount helper", ["--help"], MOUNT_HELPER, ["dist/src/cli/mount-helper.cjs"]],
])("%s loads its bundle, and the package with native code", async (_, words, program, bundle) => {
  const files = await filesLoadedBy(words, program);
  const ours = files.filter((path) => !/node_modules\/(koffi|@koromix)\//.test(path));
  expect(ours).toEqual(bundle);
  expect(files.length).toBeGreaterThan(ours.length);
});

test("a command outside the bundles still works, and loads the files as they are", async () => {
  const files = await filesLoadedBy(["serve", "--help"]);
  expect(files).toContain("dist/src/cli/commands/serve.js");
  expect(files).not.toContain(CLIENT);
});
