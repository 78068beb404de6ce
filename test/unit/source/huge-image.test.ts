/**
 * Images at the limit of what offsets can name: sparse files of petabytes on a file system in memory.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { MAX_IMAGE_BYTES } from "../../../src/limits.ts";
import { openImage } from "../../../src/source/open-image.ts";
import { paddedSizeBytes } from "../../../src/source/padded-source.ts";
import { close } from "../../../src/sys/libc/files.ts";

const directory = mkdtempSync("/dev/shm/erofs-nbd-huge-");
const path = join(directory, "image");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const resize = (size: string | number): void => {
  execFileSync("truncate", ["-s", `${size}`, path]);
};

describe("an image of petabytes", () => {
  test("is taken up to the limit, which blocks of every size divide exactly", () => {
    resize(MAX_IMAGE_BYTES);
    const { fd, spec } = openImage(path);
    close(fd);
    expect(spec.identity.sizeBytes).toBe(MAX_IMAGE_BYTES);
    expect(paddedSizeBytes(MAX_IMAGE_BYTES, 65_536)).toBe(MAX_IMAGE_BYTES);
    expect(Number.isSafeInteger(paddedSizeBytes(MAX_IMAGE_BYTES - 1, 65_536))).toBe(true);
  });

  test.each([MAX_IMAGE_BYTES + 1, "9P", "7E"])("is refused in one line above it: %s", (size) => {
    resize(size);
    expect(() => openImage(path)).toThrowError(
      expect.objectContaining({
        code: "ERR_IMAGE",
        message: `cannot use ${path}: it is larger than ${MAX_IMAGE_BYTES} bytes`,
      }),
    );
  });
});
