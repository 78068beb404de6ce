/**
 * Completion scripts: everything that is defined is in them, and the one for bash, asked as bash asks it, offers just
 * what fits. zsh's and fish's own readers judge theirs in test/interop.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ProgramShape } from "../../../src/cli/command-shapes.ts";
import { describedProgram } from "./described-program.ts";
import { runCli } from "./run-cli.ts";

let directory = "";
let program: ProgramShape;
const scripts: Record<string, string> = {};

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "completion-"));
  for (const name of ["image.erofs", "im age.erofs", "other"]) writeFileSync(join(directory, name), "");
  mkdirSync(join(directory, "imports"));
  program = await describedProgram();
  for (const shell of ["bash", "zsh", "fish"]) {
    const { code, stdout, stderr } = await runCli(["completion", shell]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    scripts[shell] = stdout;
  }
  writeFileSync(join(directory, "script.bash"), scripts["bash"] ?? "");
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

test("the description has every command, and its options with their values", () => {
  expect(program.commands.map(({ name }) => name)).toEqual(
    expect.arrayContaining(["attach", "mount", "chaos", "completion"]),
  );
  expect(program.commands.map(({ name }) => name)).not.toContain("help");
  const attach = program.commands.find(({ name }) => name === "attach");
  expect(attach?.operands).toMatchObject([{ name: "IMAGE", isOptional: false, isRepeated: false }]);
  expect(attach?.options).toContainEqual({
    names: ["--connections"],
    value: "N",
    summary: "number of links between kernel and workers",
    defaultText: "1",
    choices: [],
  });
  expect(attach?.notes).toMatch(/^Examples:\n/);
});

test.each(["bash", "zsh", "fish"])("%s: every command and every option is in the script", (shell) => {
  const script = scripts[shell] ?? "";
  for (const { name, options } of [...program.commands, { name: "", options: program.options }]) {
    expect(script).toContain(name);
    for (const spelling of options.flatMap(({ names }) => names)) {
      const bare = spelling.replace(/^-+/, "");
      const wanted = shell === "fish" ? `-${bare.length > 1 ? "l" : "s"} ${bare}` : spelling;
      expect(script).toContain(wanted);
    }
  }
});

test("another shell is refused", async () => {
  const { code, stdout, stderr } = await runCli(["completion", "tcsh"]);
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toMatch(/Allowed choices are bash, zsh, fish/);
});

/** What stands in for the kernel's devices and mounts. */
const STAND_INS = `
_erofs_nbd_devices() { if [[ -n \${1-} ]]; then printf '%s\\n' nbd0; else printf '%s\\n' nbd0 nbd1 nbd2; fi; }
_erofs_nbd_mountpoints() { printf '%s\\n' /mnt '/mnt/with space'; }
`;

/** Replies of a real bash for words as it cuts them (at = and :, too); the last one is at the cursor. */
function complete(...words: string[]): string[] {
  const cursor = words.at(-1) ?? "";
  const said = execFileSync(
    "bash",
    [
      "--norc",
      "-c",
      `set -u; cd "$1"; source ./script.bash; ${STAND_INS} shift; last=$1; shift
       COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _erofs_nbd erofs-nbd "$last" "" || true
       [[ \${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "\${COMPREPLY[@]}"`,
      "bash",
      directory,
      /^[=:]$/.test(cursor) ? "" : cursor,
      "erofs-nbd",
      ...words,
    ],
    { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] },
  );
  return said
    .split("\n")
    .filter((line) => line !== "")
    .sort();
}

describe("a real bash is offered", () => {
  test("commands", () => {
    expect(complete("")).toEqual(program.commands.map(({ name }) => name).sort());
    expect(complete("at")).toEqual(["attach"]);
    expect(complete("-v", "--run-dir", "/x", "det")).toEqual(["detach"]);
    expect(complete("nonsense", "")).toEqual([]);
  });

  test("options, its own and those of all commands", () => {
    expect(complete("attach", "--de")).toEqual(["--dead-timeout", "--device"]);
    expect(complete("attach", "--run")).toEqual(["--run-dir"]);
    expect(complete("attach", "image", "--js")).toEqual(["--json"]);
    expect(complete("--ver")).toEqual(["--verbose", "--version"]);
    expect(complete("status", "--ver")).toEqual(["--verbose"]);
    expect(complete("attach", "--", "--de")).toEqual([]);
  });

  test("files for images, directories for mount points", () => {
    expect(complete("attach", "im")).toEqual(["im age.erofs", "image.erofs", "imports"]);
    expect(complete("attach", "--json", "im\\ a")).toEqual(["im age.erofs"]);
    expect(complete("mount", "image.erofs", "im")).toEqual(["imports"]);
    expect(complete("attach", "image.erofs", "im")).toEqual([]);
  });

  test("devices: all where one is chosen, those in use where one is named", () => {
    expect(complete("attach", "--device", "")).toEqual(["nbd0", "nbd1", "nbd2"]);
    expect(complete("attach", "--device", "/dev/")).toEqual(["/dev/nbd0", "/dev/nbd1", "/dev/nbd2"]);
    expect(complete("detach", "n")).toEqual(["nbd0"]);
    expect(complete("detach", "nbd5", "/dev/nbd")).toContain("/dev/nbd0");
    expect(complete("detach", "o")).toEqual(["other"]);
    expect(complete("umount", "/mnt/")).toEqual(["/mnt/with space"]);
  });

  test("values that are words, also behind = and in lists", () => {
    expect(complete("completion", "")).toEqual(["bash", "fish", "zsh"]);
    expect(complete("attach", "--timeout", "n")).toEqual(["never"]);
    expect(complete("attach", "--timeout", "=", "n")).toEqual(["never"]);
    expect(complete("attach", "--timeout", "=")).toEqual(["never"]);
    expect(complete("chaos", "--what", "ha")).toEqual(["hang"]);
    expect(complete("chaos", "--what", "worker,ha")).toEqual(["worker,hang"]);
    expect(complete("chaos", "--what", "=", "worker,ha")).toEqual(["worker,hang"]);
    expect(complete("mount", "-o", "noatime,nbd.io")).toEqual(["noatime,nbd.io-timeout="]);
    expect(complete("mount", "-o", "nbd.connections", "=", "2,nbd.io")).toEqual(["2,nbd.io-timeout="]);
    expect(complete("mount", "-o", "nbd.connections", "=", "2", "im")).toContain("image.erofs");
  });

  test("nothing where nothing fits, and nothing is expanded or run", () => {
    expect(complete("attach", "--connections", "")).toEqual([]);
    expect(complete("attach", "$(touch ran)`touch ran`*")).toEqual([]);
    expect(complete("detach", "*")).toEqual([]);
    expect(complete("$(touch ran)")).toEqual([]);
    expect(execFileSync("ls", [directory], { encoding: "utf8" })).not.toMatch(/^ran$/m);
  });
});
