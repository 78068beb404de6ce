/**
 * Makes mount(8) find the helper for a test file: it looks for mount.erofs.nbd in /sbin alone.
 */
import { chmodSync, lstatSync, rmSync, symlinkSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll } from "vitest";

export const HELPER: string = fileURLToPath(
  new URL("../../../dist/src/cli/mount-helper.cjs", import.meta.url),
);
const LINK = "/sbin/mount.erofs.nbd";

/** Call once per file. A link that is there already stays. */
export function useMountHelper(): void {
  let isOwn = false;
  beforeAll(() => {
    chmodSync(HELPER, 0o755);
    if (lstatSync(LINK, { throwIfNoEntry: false }) !== undefined) return;
    symlinkSync(HELPER, LINK);
    isOwn = true;
  });
  afterAll(() => {
    if (isOwn) rmSync(LINK);
  });
}
