/** errors.ts and the README's table of codes: the same codes, with the exit codes that they lead to. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ErofsNbdError, exitCodeOf } from "../../src/errors.ts";

test("the README lists every code, and no other, with its exit code", () => {
  const [, union = ""] = /export type ErrorCode =([^;]+);/.exec(readFileSync("src/errors.ts", "utf8")) ?? [];
  const codes = (union.match(/ERR_\w+/g) ?? []).map((code) => [
    code,
    exitCodeOf(new ErofsNbdError(code, "cannot x: y")),
  ]);
  expect(codes.length).toBeGreaterThan(20);
  const [, section = ""] = /\n### Errors\n([\s\S]*?)\n### /.exec(readFileSync("README.md", "utf8")) ?? [];
  const rows = [...section.matchAll(/^\| `(ERR_\w+)` \| (\d+) \| \S/gm)].map(([, code, exit]) => [
    code,
    Number(exit),
  ]);
  expect(rows.sort()).toEqual(codes.sort());
});
