/** Stacks of the bundles lead to the sources. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { toSourceLines } from "../../../src/log/source-lines.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

/** Where a text is in a bundle, as a stack has it. */
function placeOf(bundle: string, text: string): string {
  const path = join(ROOT, "dist/src", bundle);
  const lines = readFileSync(path, "utf8").split("\n");
  const at = lines.findIndex((line) => line.includes(text));
  return `${path}:${at + 1}:${(lines[at]?.indexOf(text) ?? 0) + 1}`;
}

test.each([
  ["cli/client.cjs", "cannot talk to a manager: each one ended", "src/control/reach/reach-manager.ts"],
  ["manager/main.cjs", "The manager is ready", "src/manager/daemon.ts"],
  ["worker/main.cjs", "descriptors came instead of", "src/worker/link-table.ts"],
])("of %s", (bundle, text, source) => {
  const frame = `Error: x\n    at f (${placeOf(bundle, text)})\n    at node:internal/x:1:2`;
  const [, first = "", second] = toSourceLines(frame).split("\n");
  const [, path = "", line] = /^ {4}at f \((\S+):(\d+):\d+\)$/.exec(first) ?? [];
  expect(path).toBe(source);
  const there = readFileSync(join(ROOT, path), "utf8")
    .split("\n")
    .slice(Number(line) - 2, Number(line) + 1)
    .join("\n");
  expect(there).toContain(text);
  expect(second).toBe("    at node:internal/x:1:2");
});

test("a place without a map stays as it is", () => {
  expect(toSourceLines("at f (/nowhere/x.cjs:1:2)")).toBe("at f (/nowhere/x.cjs:1:2)");
});
