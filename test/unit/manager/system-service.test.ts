/**
 * Whether the manager's unit is installed: what is found first in systemd's own order decides, and a mask is found as any unit is.
 */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isInstalled, SERVICE } from "../../../src/manager/system-service.ts";

let top: string;
beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), "system-service-"));
});
afterEach(() => rmSync(top, { recursive: true, force: true }));

/** In the order in which they count. */
const DIRECTORIES = [
  "etc/systemd/system",
  "run/systemd/system",
  "usr/local/lib/systemd/system",
  "usr/lib/systemd/system",
];
function place(directory: string): string {
  const path = join(top, directory, SERVICE);
  mkdirSync(dirname(path), { recursive: true });
  return path;
}

describe("isInstalled", () => {
  test("nothing there", () => {
    expect(isInstalled(top)).toBe(false);
  });

  test.each(DIRECTORIES)("a unit in %s, unless it is masked before that", (directory) => {
    writeFileSync(place(directory), "");
    expect(isInstalled(top)).toBe(true);
    for (const [at, other] of DIRECTORIES.entries()) {
      if (other === directory) continue;
      const mask = place(other);
      symlinkSync("/dev/null", mask);
      expect(isInstalled(top), other).toBe(at > DIRECTORIES.indexOf(directory));
      rmSync(mask);
    }
  });
});
