/** errors.ts and the table in docs/errors.md: the same codes, with the exit codes that they lead to. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ErofsNbdError, exitCodeOf } from "../../src/errors.ts";

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
