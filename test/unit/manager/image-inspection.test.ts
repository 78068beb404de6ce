/**
 * What can be mounted: it depends on the size of the kernel's pages, which the system says, and on the image's place.
 */
import { execFileSync } from "node:child_process";
import { describe, expect, test, vi } from "vitest";
import { inspectHead } from "../../../src/manager/image-inspection.ts";
import * as memory from "../../../src/sys/libc/memory.ts";
import { headWith } from "../../helpers/images/superblock-bytes.ts";

vi.mock("../../../src/sys/libc/memory.ts", async (original) => {
  const real = await original<typeof memory>();
  return { ...real, pageSizeBytes: vi.fn(real.pageSizeBytes) };
});

test("the size of a page is the system's", () => {
  expect(memory.pageSizeBytes()).toBe(Number(execFileSync("getconf", ["PAGESIZE"], { encoding: "utf8" })));
});

test.each([
  [4096, 14, /blocks of 16384 bytes are larger than this kernel's pages of 4096/],
  [16_384, 14, undefined],
  [16_384, 16, /blocks of 65536 bytes are larger than this kernel's pages of 16384/],
  [65_536, 16, undefined],
])("with pages of %i bytes, blocks of 2^%i bytes", (pageBytes, blockBits, problem) => {
  vi.mocked(memory.pageSizeBytes).mockReturnValue(pageBytes);
  const inspect = (): unknown =>
    inspectHead(headWith({ blockBits }), { path: "image", sizeBytes: 2 ** 40 }, null, true);
  if (problem === undefined) expect(inspect).not.toThrow();
  else expect(inspect).toThrow(problem);
});

describe("an image at an offset", () => {
  const inspect = (head: Uint8Array, offsetBytes: number, sizeBytes: number): unknown =>
    inspectHead(head, { path: "image", sizeBytes }, null, true, { offsetBytes });
  const head = headWith({ blockBits: 12, blocksLow: 4 });

  test("has the size of the file without what is before it", () => {
    expect(inspect(head, 8192, 8192 + 4 * 4096)).toMatchObject({ blockSizeBytes: 4096 });
    expect(() => inspect(head, 8192, 8191 + 4 * 4096)).toThrow(/truncated/);
  });

  test("begins at a whole block", () => {
    expect(() => inspect(head, 512, 2 ** 20)).toThrow(
      "cannot mount image: fsoffset 512 is not a multiple of the image's block size, 4096 bytes",
    );
    expect(inspect(headWith({ blockBits: 9 }), 512, 2 ** 20)).toBeDefined();
  });

  test.each([
    ["elsewhere", 4096],
    ["behind the end of the file", 0],
  ])("%s is none", (_, bytes) => {
    expect(() => inspect(new Uint8Array(bytes), 8192, 2 ** 20)).toThrow(
      expect.objectContaining({
        code: "ERR_NOT_EROFS",
        message: "cannot mount image: there is no EROFS image at offset 8192",
      }),
    );
  });
});
