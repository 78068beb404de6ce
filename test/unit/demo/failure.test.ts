/** A demo that fails says why, shows the end of the manager's log, and no stack. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

test("a demo that fails tells the reason and the end of the manager's log, and no stack", () => {
  const directory = mkdtempSync(join(tmpdir(), "demo-"));
  try {
    const lines = Array.from({ length: 100 }, (_, at) => `{"msg":"line ${at}"}\n`);
    writeFileSync(join(directory, "manager.log"), lines.join(""));
    const words = ["examples/demo/story.mjs", join(directory, "none.erofs"), join(directory, "none.json")];
    const { status, stdout, stderr } = spawnSync(process.execPath, words, {
      encoding: "utf8",
      env: { ...process.env, EROFS_NBD_RUN_DIR: directory, TMPDIR: directory },
    });
    expect(status).toBe(1);
    expect(stderr).toBe("");
    expect(stdout).toMatch(/erofs-nbd mount ended with \d+: erofs-nbd: .*none\.erofs/);
    expect(stdout).toContain('{"msg":"line 99"}');
    expect(stdout).toContain('{"msg":"line 70"}');
    expect(stdout).not.toContain('{"msg":"line 69"}');
    expect(stdout).toMatch(/✘ the demo failed\n$/);
    expect(stdout).not.toMatch(/^\s+at .*:\d+:\d+/m);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
