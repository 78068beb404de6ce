/** path-view.ts: the same view only where a path leads to the same file for both. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { pathView } from "../../../src/source/path-view.ts";

/** Built code, because others run it. */
const MODULE = fileURLToPath(new URL("../../../dist/src/source/path-view.js", import.meta.url));
const PROGRAM = `const { pathView } = await import(${JSON.stringify(MODULE)}); console.log(pathView())`;

/** The view of another process, which these words start. */
function viewOf(...before: readonly string[]): string {
  const [program = "", ...words] = [...before, process.execPath, "--input-type=module", "-e", PROGRAM];
  const { stdout, stderr } = spawnSync(program, words, { encoding: "utf8", timeout: 20_000 });
  expect(stderr).toBe("");
  return stdout.trim();
}

const canUnshare = spawnSync("unshare", ["-m", "true"]).status === 0;

test("is the same in another process, whatever its directory", () => {
  expect(pathView()).toMatch(/^mnt:\[\d+\] root \d+ on mount \d+$/);
  expect(viewOf("sh", "-c", 'cd /proc; exec "$@"', "sh")).toBe(pathView());
});

test.runIf(canUnshare)("is another one in another mount namespace, with the same mounts", () => {
  expect(viewOf("unshare", "-m")).toMatch(/^mnt:/);
  expect(viewOf("unshare", "-m")).not.toBe(pathView());
});

test.runIf(canUnshare)("is another one under another root, be it the same directory at another place", () => {
  const place = mkdtempSync(join(tmpdir(), "erofs-nbd-view-"));
  // Both in one new namespace: only the root differs.
  const script = 'mount --rbind / "$0" && "$@" && exec chroot "$0" "$@"';
  const said = viewOf("unshare", "-m", "sh", "-c", script, place).split("\n");
  rmdirSync(place);
  expect(said).toHaveLength(2);
  const [outside, inside] = said.map((view) => /^(\S+) (root \d+)(.*)$/.exec(view)?.slice(1));
  expect(inside?.slice(0, 2)).toEqual(outside?.slice(0, 2));
  expect(inside?.[2]).not.toBe(outside?.[2]);
});
