/**
 * Structured replies of the loop: data, holes, errors and block status, taken apart by hand.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, utimesSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import type { FileSource } from "../../../src/source/file-source.ts";
import type { Source } from "../../../src/source/source.ts";
import {
  DeferredSource,
  openFileSource,
  openPatternFile,
  openSharedFile,
  PatternSource,
  patternAt,
} from "../../helpers/images/sources.ts";
import { HandDrivenLink } from "../../helpers/nbd/hand-driven-link.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";

const KIB = 1024;
const [READ, BLOCK_STATUS] = [0, 7] as const;
const [DF, REQ_ONE] = [4, 8] as const;
const [EIO, EINVAL] = [5, 22] as const;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-structured-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Chunk {
  readonly isLast: boolean;
  readonly type: number;
  readonly cookie: bigint;
  readonly payload: Buffer;
}

let harness: HandDrivenLink;
let file: FileSource | undefined;
afterEach(() => {
  harness.dispose();
  file?.close();
  file = undefined;
});

function start(source: Source, allocation = true): void {
  harness = new HandDrivenLink(source, { structured: { allocation } });
}

/** Sends requests in one go and returns the chunks that come. */
function chunks(...requests: Buffer[]): Chunk[] {
  harness.put(Buffer.concat(requests));
  harness.turn();
  const bytes = Buffer.concat([harness.hear()]);
  const found: Chunk[] = [];
  for (let at = 0; at < bytes.length; ) {
    expect(bytes.readUInt32BE(at)).toBe(0x668e33ef);
    const end = at + 20 + bytes.readUInt32BE(at + 16);
    found.push({
      isLast: (bytes.readUInt16BE(at + 4) & 1) !== 0,
      type: bytes.readUInt16BE(at + 6),
      cookie: bytes.readBigUInt64BE(at + 8),
      payload: bytes.subarray(at + 20, end),
    });
    at = end;
  }
  return found;
}

const read = (cookie: bigint, at: number, length: number, flags = 0): Buffer =>
  requestHeader(READ, flags, cookie, BigInt(at), length);
const status = (at: number, length: number, flags = 0): Buffer =>
  requestHeader(BLOCK_STATUS, flags, 9n, BigInt(at), length);

/** A chunk as [type, offset, bytes of data or of the hole]. */
function told({ type, payload }: Chunk): [number, number, number] {
  const lengthBytes = type === 2 ? payload.readUInt32BE(8) : payload.length - 8;
  return [type, Number(payload.readBigUInt64BE(0)), lengthBytes];
}

/** The descriptors of a block status as [length, flags]. */
function extents(one: Chunk | undefined): [number, number][] {
  expect(one).toMatchObject({ isLast: true, type: 5, cookie: 9n });
  const payload = one?.payload ?? Buffer.alloc(4);
  expect(payload.readUInt32BE(0)).toBe(1);
  const found: [number, number][] = [];
  for (let at = 4; at < payload.length; at += 8)
    found.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
  return found;
}

/** Data of the pattern in these ranges, holes elsewhere; the size is no multiple of a block. */
const SPARSE_BYTES = 1024 * KIB + 777;
const DATA: readonly [number, number][] = [
  [0, 64 * KIB],
  [256 * KIB, 512 * KIB],
];
function openSparse(name: string): string {
  const path = join(directory, name);
  const fd = openSync(path, "w");
  ftruncateSync(fd, SPARSE_BYTES);
  for (const [from, to] of DATA) writeSync(fd, patternAt(from, to - from), 0, to - from, from);
  closeSync(fd);
  file = openFileSource(path);
  start(file);
  return path;
}

describe("a structured reply to a read", () => {
  test.each([
    ["memory", () => new PatternSource(1 << 20)],
    ["a file", () => (file = openPatternFile(join(directory, "plain"), 1 << 20))],
    ["the page cache", () => (file = openSharedFile(join(directory, "shared"), 1 << 20))],
  ])("is one chunk where all is data, small and large: from %s", (_, open) => {
    start(open());
    const ranges: [number, number][] = [
      [3, 512],
      [4096, 100_000],
      [1, (1 << 20) - 1],
    ];
    const found = chunks(...ranges.map(([at, length], index) => read(BigInt(index), at, length)));
    expect(found.map(({ isLast }) => isLast)).toEqual([true, true, true]);
    for (const one of found) {
      const [at, length] = ranges[Number(one.cookie)] as [number, number];
      expect(told(one)).toEqual([1, at, length]);
      expect(one.payload.subarray(8).equals(patternAt(at, length))).toBe(true);
    }
  });

  test("comes from an asynchronous source, too", async () => {
    const source = new DeferredSource(1 << 20);
    start(source);
    harness.say(read(7n, 10, 20));
    source.pending[0]?.fulfil();
    await new Promise(setImmediate);
    const [one] = chunks();
    expect(told(one as Chunk)).toEqual([1, 10, 20]);
    expect(one?.payload.subarray(8).equals(patternAt(10, 20))).toBe(true);
  });

  test("is a hole where the file has one, and its parts where it has both", () => {
    openSparse("sparse");
    expect(chunks(read(1n, 100 * KIB, 50_000)).map(told)).toEqual([[2, 100 * KIB, 50_000]]);
    const mixed = chunks(read(2n, 32 * KIB, 300 * KIB));
    expect(mixed.map(told)).toEqual([
      [1, 32 * KIB, 32 * KIB],
      [2, 64 * KIB, 192 * KIB],
      [1, 256 * KIB, 76 * KIB],
    ]);
    expect(mixed.map(({ isLast, cookie }) => [isLast, cookie])).toEqual([
      [false, 2n],
      [false, 2n],
      [true, 2n],
    ]);
    expect(mixed[0]?.payload.subarray(8).equals(patternAt(32 * KIB, 32 * KIB))).toBe(true);
    expect(mixed[2]?.payload.subarray(8).equals(patternAt(256 * KIB, 76 * KIB))).toBe(true);
    const end = chunks(read(3n, 500 * KIB, SPARSE_BYTES - 500 * KIB));
    expect(end.map(told)).toEqual([
      [1, 500 * KIB, 12 * KIB],
      [2, 512 * KIB, SPARSE_BYTES - 512 * KIB],
    ]);
  });

  test("is never in parts when the client says so", () => {
    openSparse("whole");
    const [one, ...others] = chunks(read(1n, 32 * KIB, 300 * KIB, DF));
    expect(others).toEqual([]);
    expect(told(one as Chunk)).toEqual([1, 32 * KIB, 300 * KIB]);
    const data = Buffer.alloc(300 * KIB);
    patternAt(32 * KIB, 32 * KIB).copy(data);
    patternAt(256 * KIB, 76 * KIB).copy(data, 224 * KIB);
    expect(one?.payload.subarray(8).equals(data)).toBe(true);
  });

  test("is an error when the source fails, each of a batch", () => {
    const path = openSparse("modified");
    expect(chunks(read(1n, 0, 512))).toHaveLength(1);
    utimesSync(path, 1, 1);
    // Small ones, a large one, and a hole.
    const found = chunks(
      read(1n, 0, 512),
      read(2n, 512, 512),
      read(3n, 256 * KIB, 200_000),
      read(4n, 100 * KIB, 9),
    );
    expect(found.map(({ cookie }) => cookie).sort()).toEqual([1n, 2n, 3n, 4n]);
    for (const { isLast, type, payload } of found)
      expect([isLast, type, payload.toString("hex")]).toEqual([true, 0x8001, "000000050000"]);
    expect(extentsError(chunks(status(0, SPARSE_BYTES)))).toBe(EIO);
    expect(harness.ends).toEqual([]);
  });
});

/** The error number of the only chunk. */
function extentsError(found: readonly Chunk[]): number {
  expect(found).toMatchObject([{ isLast: true, type: 0x8001, cookie: 9n }]);
  return found[0]?.payload.readUInt32BE(0) ?? 0;
}

describe("block status", () => {
  test("tells data from holes, to the last byte", () => {
    openSparse("status");
    expect(extents(chunks(status(0, SPARSE_BYTES))[0])).toEqual([
      [64 * KIB, 0],
      [192 * KIB, 3],
      [256 * KIB, 0],
      [512 * KIB + 777, 3],
    ]);
    expect(extents(chunks(status(60 * KIB, 5 * KIB))[0])).toEqual([
      [4 * KIB, 0],
      [KIB, 3],
    ]);
    expect(extents(chunks(status(0, SPARSE_BYTES, REQ_ONE))[0])).toEqual([[64 * KIB, 0]]);
    expect(extents(chunks(status(1, 1, REQ_ONE))[0])).toEqual([[1, 0]]);
  });

  test("is data where nothing is known", () => {
    start(new PatternSource(1 << 20));
    expect(extents(chunks(status(5, 1000))[0])).toEqual([[1000, 0]]);
  });

  test.each([
    ["of nothing", status(0, 0)],
    ["past the end", status(SPARSE_BYTES - 1, 2)],
    ["with another flag", status(0, 512, DF)],
  ])("%s is refused", (_, request) => {
    openSparse("refused");
    expect(extentsError(chunks(request))).toBe(EINVAL);
  });

  test("is refused when the client has not chosen it", () => {
    start(new PatternSource(1 << 20), false);
    expect(extentsError(chunks(status(0, 512)))).toBe(EINVAL);
  });
});
