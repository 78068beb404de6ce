/**
 * What is made for other programs, judged by them: completion scripts by zsh and fish, manual pages by groff. fish is
 * asked for completions as well.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ensurePackages } from "../helpers/packages.ts";

const CLI = fileURLToPath(new URL("../../dist/src/cli/main.cjs", import.meta.url));
let directory = "";
const at = (name: string): string => join(directory, name);

beforeAll(() => {
  ensurePackages(["zsh", "fish", "groff-base"]);
  directory = mkdtempSync(join(tmpdir(), "shells-"));
  for (const shell of ["zsh", "fish"]) {
    writeFileSync(at(shell), execFileSync(process.execPath, [CLI, "completion", shell]));
  }
  writeFileSync(at("image.erofs"), "");
  execFileSync(process.execPath, ["man/write.mjs", directory]);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Runs a program that must neither fail nor complain. */
function silent(program: string, ...words: string[]): string {
  const env = { ...process.env, HOME: directory, XDG_CONFIG_HOME: directory, XDG_DATA_HOME: directory };
  const { status, stdout, stderr } = spawnSync(program, words, { cwd: directory, env, encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

test("zsh reads its script, sourced and as a function of its own", () => {
  silent("zsh", "-f", "-n", at("zsh"));
  const load =
    "autoload -U compinit; compinit -D; source ./zsh; print -r -- $_comps[erofs-nbd]; functions _erofs_nbd";
  const said = silent("zsh", "-f", "-c", load);
  expect(said.split("\n")[0]).toBe("_erofs_nbd");
  expect(said).toContain("--dead-timeout");
});

describe("fish", () => {
  /** What fish offers for a line, without the descriptions. */
  const complete = (line: string): string[] =>
    silent("fish", "--no-config", "-c", `source ./fish; complete -C '${line}'`)
      .split("\n")
      .map((one) => one.split("\t")[0] ?? "")
      .filter((one) => one !== "");

  test("reads its script", () => {
    silent("fish", "--no-config", "--no-execute", at("fish"));
  });

  test.each([
    ["erofs-nbd att", ["attach"]],
    ["erofs-nbd --run-dir /x det", ["detach"]],
    ["erofs-nbd attach --de", ["--dead-timeout", "--device"]],
    ["erofs-nbd attach ima", ["image.erofs"]],
    ["erofs-nbd attach --connections ", []],
    ["erofs-nbd chaos --what worker,ha", ["worker,hang"]],
    ["erofs-nbd completion ", ["bash", "fish", "zsh"]],
    ["erofs-nbd mount -o noatime,nbd.io", ["noatime,nbd.io-timeout="]],
  ])("offers for '%s'", (line, wanted) => {
    expect(complete(line)).toEqual(wanted);
  });
});

test.each(["erofs-nbd.8", "mount.erofs.nbd.8"])("groff has nothing to say against %s", (name) => {
  const text = silent("groff", "-ww", "-man", "-Tutf8", at(name));
  expect(text).toMatch(/erofs-nbd 0\./);
});
