/** An installation without koffi's native part, as npm leaves it with --omit=optional: each program says so in one line. */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { headWith } from "../../helpers/images/superblock-bytes.ts";
import { runCli } from "./run-cli.ts";

const FAULT =
  "cannot load the native part of the npm package koffi, which makes the system calls: it is not installed";
const HINT = "install erofs-nbd again without --omit=optional and --no-optional";
let directory: string;
const at = (...names: string[]): string => join(directory, ...names);

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-without-koffi-"));
  for (const path of ["dist", "package.json", "node_modules/koffi"])
    cpSync(path, at(path), { recursive: true });
  // Packages find others beside the place that a link leads to, so koffi itself is no link.
  for (const name of readdirSync("node_modules"))
    if (name !== "koffi" && name !== "@koromix" && !name.startsWith("."))
      symlinkSync(resolve("node_modules", name), at("node_modules", name));
  mkdirSync(at("mnt"));
  writeFileSync(at("image"), headWith({ blocksLow: 2 }, 8192));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

test.each([
  ["attach", "cli/main.cjs", ["attach", "image"]],
  ["mount", "cli/main.cjs", ["mount", "image", "mnt"]],
  ["serve", "cli/main.cjs", ["serve", "--socket", "socket", "image"]],
  ["manager", "cli/main.cjs", ["manager"]],
  ["mount.erofs.nbd", "cli/mount-helper.cjs", ["image", "mnt"]],
])("%s names koffi and what to do, without a stack", async (_, program, args) => {
  const env = { EROFS_NBD_RUN_DIR: at("run") };
  const result = await runCli(args, { program: at("dist/src", program), cwd: directory, env });
  expect(result).toEqual({ code: 2, stdout: "", stderr: `erofs-nbd: ${FAULT}\nhint: ${HINT}\n` });
});

test("doctor fails at koffi, and does not blame netlink", async () => {
  const words = ["--run-dir", at("run"), "doctor", "--json"];
  const { code, stdout, stderr } = await runCli(words, { program: at("dist/src/cli/main.cjs") });
  expect({ code, stderr }).toEqual({ code: 2, stderr: "" });
  const { checks } = JSON.parse(stdout) as { checks: ReadonlyArray<{ readonly name: string }> };
  const of = (name: string) => checks.find((check) => check.name === name);
  expect(of("koffi")).toEqual({ name: "koffi", state: "fail", detail: FAULT, hint: HINT });
  expect(of("nbd netlink")).toMatchObject({ state: "warn", detail: "unknown without koffi" });
});
