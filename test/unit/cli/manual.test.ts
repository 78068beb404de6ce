/**
 * The manual pages, written from the built program: every command, option and operand of the command line is in them,
 * with what its help says. groff judges their form in test/interop.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ProgramShape } from "../../../src/cli/command-shapes.ts";
import { NBD_OPTIONS } from "../../../src/cli/mount/mount-options.ts";
import { chooseRunDir } from "../../../src/control/run-dir.ts";
import { EXIT } from "../../../src/errors.ts";
import { describedProgram } from "./described-program.ts";

let directory = "";
let program: ProgramShape;
const pages: Record<string, string> = {};

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "manual-"));
  execFileSync(process.execPath, ["man/write.mjs", directory]);
  for (const name of ["erofs-nbd", "mount.erofs.nbd"]) {
    pages[name] = plain(readFileSync(join(directory, `${name}.8`), "utf8"));
  }
  program = await describedProgram();
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** What a reader sees of it, line by line. */
function plain(text: string): string {
  return text
    .replace(/\\f[BIR]/g, "")
    .replaceAll("\\&", "")
    .replaceAll("\\-", "-")
    .replaceAll("\\e", "\\")
    .replace(/\\\[u([0-9A-F]+)\]/g, (_, digits: string) => String.fromCodePoint(Number.parseInt(digits, 16)));
}

/** The part of a page under a command's heading. */
function partOf(command: string): string {
  const [, part] = (pages["erofs-nbd"] ?? "").split(`\n.SS ${command}\n`);
  if (part === undefined) throw new Error(`${command} has no part of its own`);
  return part.split(/\n\.S[SH] /, 1)[0] ?? "";
}

test("every command has a part with its operands, its options, their meanings and its examples", () => {
  expect(program.commands.length).toBeGreaterThan(10);
  for (const command of program.commands) {
    const part = partOf(command.name);
    for (const { names, value, summary } of command.options) {
      if (names.includes("--help")) continue;
      const head = `\n.TP\n${names.join(", ")}${value === undefined ? "" : ` ${value}`}\n${summary}`;
      expect(part).toContain(head);
    }
    for (const { name, summary } of command.operands) {
      expect(part).toMatch(new RegExp(`\\n\\.TP\\n\\[?${name}`));
      expect(part).toContain(summary);
    }
    for (const line of command.notes.split("\n")) expect(part).toContain(line.trim());
    expect(pages["erofs-nbd"]).toContain(`\n${program.name} ${command.name} [OPTIONS]`);
  }
});

test("the options of all commands, the exit codes and the version are there", () => {
  const page = pages["erofs-nbd"] ?? "";
  for (const { names, summary } of program.options) {
    expect(page).toContain(names.join(", "));
    expect(page).toContain(summary);
  }
  for (const code of Object.values(EXIT)) expect(page).toContain(`\n.TP\n${code}\n`);
  const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
  for (const text of Object.values(pages))
    expect(text).toMatch(new RegExp(`^\\.TH .*"erofs-nbd ${version}"`));
});

test("the page lists every user-visible file of the run directory and every variable that the code reads", () => {
  const page = pages["erofs-nbd"] ?? "";
  const { path, logFile, oldLogFile, metricsSocket } = chooseRunDir("/run/erofs-nbd");
  const missing = (names: Iterable<string>): string[] =>
    [...names].filter((name) => !page.includes(`\n.TP\n${name}\n`));
  expect(missing([path, logFile, oldLogFile, metricsSocket])).toEqual([]);
  const code = readdirSync("src", { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => readFileSync(join("src", name), "utf8"))
    .join("\n");
  const names = new Set(code.match(/(?<=")(EROFS_NBD_[A-Z_]+|NO_COLOR|RUNTIME_DIRECTORY)(?=")/g));
  expect(names.size).toBeGreaterThan(4);
  // Set by the guardian for the manager that it starts, not by users.
  names.delete("EROFS_NBD_REVIVALS");
  expect(missing(names)).toEqual([]);
});

test("the helper's page has every option of erofs-nbd and every flag", () => {
  const page = pages["mount.erofs.nbd"] ?? "";
  for (const { name, value, summary } of NBD_OPTIONS) {
    expect(page).toContain(`\n.TP\nnbd.${name}=${value}\n${summary}`);
  }
  for (const flag of ["-f", "-n", "-s", "-v", "-N NAMESPACE", "-o OPTIONS", "-t TYPE"]) {
    expect(page).toContain(`\n.TP\n${flag}\n`);
  }
});

test("nothing is left that roff would take for something else", () => {
  for (const name of Object.keys(pages)) {
    const text = readFileSync(join(directory, `${name}.8`), "utf8");
    expect(text).toMatch(/^[\x20-\x7e\n]*$/);
    for (const line of text.split("\n").filter((one) => /^[.']/.test(one))) {
      expect(line).toMatch(/^\.(TH|SH|SS|TP|PP|RS|RE|br|nf|fi|nh|ad)\b/);
    }
  }
});
