/**
 * Padding to whole blocks: zeros behind the end and nowhere else, at every boundary.
 */
import { describe, expect, test } from "vitest";
import { paddedSizeBytes, padToBlocks } from "../../../src/source/padded-source.ts";
import { type FileExtent, SourceError } from "../../../src/source/source.ts";
import { DeferredSource, PatternSource, patternAt, sharedExtent } from "../../helpers/images/sources.ts";

const DATA = 50;
const BLOCK = 16;
const PADDED = 64;

describe("paddedSizeBytes", () => {
  test.each([
    [0, 512, 0],
    [1, 512, 512],
    [511, 512, 512],
    [512, 512, 512],
    [513, 512, 1024],
    [4097, 4096, 8192],
    [2 ** 40 + 1, 4096, 2 ** 40 + 4096],
  ])("of %i in blocks of %i is %i", (size, block, padded) => {
    expect(paddedSizeBytes(size, block)).toBe(padded);
  });
});

describe("a source that ends on a block", () => {
  test("is left as it is", () => {
    const source = new PatternSource(4096);
    expect(padToBlocks(source, 512)).toBe(source);
  });
});

describe("a padded source", () => {
  test("reads every range as data and zeros", () => {
    const source = padToBlocks(new PatternSource(DATA), BLOCK);
    expect(source.sizeBytes).toBe(PADDED);
    const whole = Buffer.concat([patternAt(0, DATA), Buffer.alloc(PADDED - DATA)]);
    for (let from = 0; from < PADDED; from += 1) {
      for (let to = from + 1; to <= PADDED; to += 1) {
        const target = Buffer.alloc(to - from, 0xaa);
        void source.read(target, from);
        expect(target.equals(whole.subarray(from, to))).toBe(true);
      }
    }
  });

  test("asks its source only for what that has", () => {
    const inner = new PatternSource(DATA);
    const source = padToBlocks(inner, BLOCK);
    void source.read(new Uint8Array(PADDED - DATA), DATA);
    expect(inner.reads).toBe(0);
  });

  test("waits for an asynchronous source", async () => {
    const inner = new DeferredSource(DATA);
    const source = padToBlocks(inner, BLOCK);
    expect(source.asynchronous).toBe(true);
    const target = Buffer.alloc(20, 0xaa);
    const read = source.read(target, 40);
    expect(inner.pending.map(({ offsetBytes, lengthBytes }) => [offsetBytes, lengthBytes])).toEqual([
      [40, 10],
    ]);
    inner.pending[0]?.fulfil();
    await read;
    expect(target).toEqual(Buffer.concat([patternAt(40, 10), Buffer.alloc(10)]));
  });

  test("names an extent for data alone", () => {
    const inner = new PatternSource(DATA);
    inner.extent = (offsetBytes?: number): FileExtent => sharedExtent(3, offsetBytes ?? -1);
    const source = padToBlocks(inner, BLOCK);
    expect(source.extent(10, 40)).toMatchObject({ fd: 3, offsetBytes: 10 });
    expect(source.extent(10, 41)).toBeUndefined();
    expect(source.extent(DATA, 1)).toBeUndefined();
  });

  test("vouches and closes as its source does", () => {
    const inner = new PatternSource(DATA);
    const source = padToBlocks(inner, BLOCK);
    inner.verifyFailure = new SourceError("cannot serve: changed");
    expect(() => source.verify()).toThrow("changed");
    source.close();
    expect(inner.closed).toBe(1);
  });

  test("hides no failure of its source behind zeros", () => {
    const inner = new PatternSource(DATA);
    inner.readFailure = new SourceError("cannot read: no");
    const source = padToBlocks(inner, BLOCK);
    expect(() => source.read(new Uint8Array(20), 40)).toThrow("cannot read: no");
  });
});
