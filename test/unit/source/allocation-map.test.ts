/**
 * The extents of sparse files, asked for in every order, against what was written.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { AllocationMap } from "../../../src/source/allocation-map.ts";

const BLOCK = 4096;
const BLOCKS = 64;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-allocation-"));
const fd = openSync(join(directory, "sparse"), "w+");
afterAll(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true, force: true });
});
/** Blocks with data: alone, in a row, and the last one before an end that is no multiple of a block, a hole. */
const hasData = (block: number): boolean => block % 7 === 0 || (block > 20 && block < 30);
const SIZE = BLOCKS * BLOCK + 5;
ftruncateSync(fd, SIZE);
for (let block = 0; block < BLOCKS; block += 1)
  if (hasData(block)) writeSync(fd, Buffer.alloc(BLOCK, 1), 0, BLOCK, block * BLOCK);

/** Where the extent around an offset ends. */
function endOf(offsetBytes: number): number {
  const first = Math.floor(offsetBytes / BLOCK);
  for (let block = first; block <= BLOCKS; block += 1)
    if (hasData(block) !== hasData(first)) return block * BLOCK;
  return SIZE;
}

describe("an allocation map", () => {
  test.each([
    ["upwards", (index: number) => index],
    ["downwards", (index: number) => BLOCKS - 1 - index],
    ["across", (index: number) => (index * 37) % BLOCKS],
  ])("knows every extent, asked %s, and again", (_, blockOf) => {
    const map = new AllocationMap(fd, SIZE);
    for (const round of [0, 1])
      for (let index = 0; index < BLOCKS; index += 1) {
        const offset = blockOf(index) * BLOCK + 100 * round;
        const found = map.at(offset);
        expect([found.isHole, found.endBytes]).toEqual([!hasData(Math.floor(offset / BLOCK)), endOf(offset)]);
        expect(found.startBytes).toBeLessThanOrEqual(offset);
      }
    map.forget();
    expect(map.at(0)).toEqual({ startBytes: 0, endBytes: endOf(0), isHole: false });
  });

  test("has data everywhere when the file system cannot tell", () => {
    expect(new AllocationMap(-1, SIZE).at(5)).toEqual({ startBytes: 5, endBytes: SIZE, isHole: false });
  });
});
