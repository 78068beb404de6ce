/** errors.ts and the table in docs/errors.md: the same codes, with the exit codes that they lead to. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ErofsNbdError, EXIT, exitCodeOf, hasCode, isCoded, notAttached } from "../../src/errors.ts";

test("docs/errors.md lists every code, and no other, with its exit code", () => {
  const [, union = ""] = /export type ErrorCode =([^;]+);/.exec(readFileSync("src/errors.ts", "utf8")) ?? [];
  const codes = (union.match(/ERR_\w+/g) ?? []).map((code) => [
    code,
    exitCodeOf(new ErofsNbdError(code, "cannot x: y")),
  ]);
  expect(codes.length).toBeGreaterThan(20);
  const rows = [...readFileSync("docs/errors.md", "utf8").matchAll(/^\| `(ERR_\w+)` \| (\d+) \| \S/gm)].map(
    ([, code, exit]) => [code, Number(exit)],
  );
  expect(rows.sort()).toEqual(codes.sort());
});

test("docs/commands.md and the help list every exit code, and no other", () => {
  const [, section = ""] =
    /## Exit codes and messages\n\n([\s\S]*?)\.\n/.exec(readFileSync("docs/commands.md", "utf8")) ?? [];
  const [, line = ""] = /^Exit codes: ([^`]*)`/m.exec(readFileSync("src/cli/program.ts", "utf8")) ?? [];
  for (const text of [section, line])
    expect(text.match(/\b\d+\b/g)?.map(Number)).toEqual(Object.values(EXIT));
});

test("a code is recognized by its text, no matter which class carries it", () => {
  const refused = Object.assign(new Error("refused"), { code: "EACCES" });
  expect(hasCode(new ErofsNbdError("ERR_CONTROL", "x"), "ERR_CONTROL")).toBe(true);
  expect(hasCode(refused, "EPERM", "EACCES")).toBe(true);
  expect([refused, { code: 7 }, undefined, null, "EPERM"].some((error) => hasCode(error, "EPERM"))).toBe(
    false,
  );
  expect([refused, new Error("bug"), { code: "EPERM" }].map(isCoded)).toEqual([true, false, false]);
});

test("a device that is not attached has one wording", () => {
  expect(notAttached("show nbd3")).toMatchObject({
    code: "ERR_NOT_ATTACHED",
    message: "cannot show nbd3: it is not attached",
  });
});
