/**
 * What a short command loads: neither libc's bindings nor the schemas' library, which together take longer than the rest.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { runCli } from "./run-cli.ts";

test.each([
  ["status", ["status"], true],
  ["attach --help", ["attach", "--help"], true],
  // So that the test is known to see them.
  ["serve --help", ["serve", "--help"], false],
])("%s", async (_, words, isLight) => {
  const directory = mkdtempSync(join(tmpdir(), "cli-start-"));
  try {
    const env = { NODE_DEBUG: "module,esm", EROFS_NBD_RUN_DIR: join(directory, "run") };
    const { code, stderr } = await runCli(words, { env });
    expect(code).toBe(0);
    expect(stderr).toContain("/commander/");
    expect(!/node_modules\/(koffi|zod|pino)\//.test(stderr)).toBe(isLight);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
