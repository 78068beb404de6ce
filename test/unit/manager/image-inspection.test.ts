/**
 * What the kernel can mount depends on the size of its pages, which the system says.
 */
import { execFileSync } from "node:child_process";
import { expect, test, vi } from "vitest";
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
