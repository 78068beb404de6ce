/**
 * Property tests of the read-serving loop: whatever requests come, sensible or not, in whatever pieces, each gets
 * exactly the one reply that a naive oracle foresees, and the stream stays understood.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { padToBlocks } from "../../src/source/padded-source.ts";
import type { Source } from "../../src/source/source.ts";
import { openPatternFile, PatternSource, patternAt } from "../helpers/images/sources.ts";
import { HandDrivenLink, parseReplies } from "../helpers/nbd/hand-driven-link.ts";
import { requestHeader } from "../helpers/nbd/mini-nbd-client.ts";

const SIZE = 300_000;
const PADDED = 300_032;
const [EPERM, EINVAL] = [1, 22];
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-property-"));
const file = openPatternFile(join(directory, "image"), SIZE);
afterAll(() => {
  file.close();
  rmSync(directory, { recursive: true, force: true });
});
const image = Buffer.concat([patternAt(0, SIZE), Buffer.alloc(PADDED - SIZE)]);

interface Asked {
  readonly type: number;
  readonly flags: number;
  readonly offsetBytes: bigint;
  readonly lengthBytes: number;
}

const offset = fc.oneof(
  { weight: 6, arbitrary: fc.nat(PADDED).map(BigInt) },
  { weight: 1, arbitrary: fc.integer({ min: PADDED - 5, max: PADDED + 5 }).map(BigInt) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
);
const length = fc.oneof(
  { weight: 6, arbitrary: fc.nat(5000) },
  { weight: 2, arbitrary: fc.nat(PADDED) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff_ffff }) },
);
const asked: fc.Arbitrary<Asked> = fc
  .record({
    type: fc.oneof(
      { weight: 8, arbitrary: fc.constant(0) },
      { weight: 4, arbitrary: fc.constantFrom(1, 3, 4, 5, 6, 7) },
      { weight: 1, arbitrary: fc.integer({ min: 8, max: 0xffff }) },
    ),
    flags: fc.oneof({ weight: 8, arbitrary: fc.constant(0) }, fc.integer({ min: 0, max: 0xffff })),
    offsetBytes: offset,
    lengthBytes: length,
  })
  // A WRITE brings its payload: of a size that a test can hold.
  .map((one) => (one.type === 1 ? { ...one, lengthBytes: one.lengthBytes % 40_000 } : one));

/** What the protocol promises a read-only export's client, said as plainly as possible. */
function oracle(one: Asked): { errno: number; data: Buffer } {
  const none = Buffer.alloc(0);
  if ([1, 4, 6].includes(one.type)) return { errno: EPERM, data: none };
  const inside = one.offsetBytes + BigInt(one.lengthBytes) <= BigInt(PADDED);
  if (one.type !== 0 || one.flags !== 0 || one.lengthBytes === 0 || !inside)
    return { errno: EINVAL, data: none };
  const at = Number(one.offsetBytes);
  return { errno: 0, data: image.subarray(at, at + one.lengthBytes) };
}

function streamOf(requests: readonly Asked[]): Buffer {
  return Buffer.concat(
    requests.flatMap((one, index) => [
      requestHeader(one.type, one.flags, BigInt(index), one.offsetBytes, one.lengthBytes),
      one.type === 1 ? Buffer.alloc(one.lengthBytes, 0x25) : Buffer.alloc(0),
    ]),
  );
}

/** Sends the stream in pieces of these sizes, in turn, and returns all that was heard. */
function converse(harness: HandDrivenLink, stream: Buffer, sizes: readonly number[]): Buffer {
  const heard: Buffer[] = [];
  for (let at = 0, turn = 0; at < stream.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1;
    harness.say(stream.subarray(at, at + size));
    at += size;
    heard.push(harness.hear());
  }
  return Buffer.concat(heard);
}

function check(source: Source, requests: readonly Asked[], sizes: readonly number[], small: boolean): void {
  const harness = new HandDrivenLink(source);
  try {
    if (small) harness.shrinkSocket();
    const heard = converse(harness, streamOf(requests), sizes);
    const expected = requests.map(oracle);
    const replies = parseReplies(heard, (cookie) => expected[Number(cookie)]?.data.length ?? 0);
    expect(replies.map((reply) => Number(reply.cookie)).sort((a, b) => a - b)).toEqual(
      requests.map((_, i) => i),
    );
    for (const { cookie, errno, data } of replies) {
      expect(errno).toBe(expected[Number(cookie)]?.errno);
      expect(data.equals(expected[Number(cookie)]?.data ?? Buffer.alloc(0))).toBe(true);
    }
    expect(harness.ends).toEqual([]);
    expect(harness.link.counters.requests).toBe(requests.length);
  } finally {
    harness.dispose();
  }
}

const requestLists = fc.array(asked, { minLength: 1, maxLength: 40 });
const pieceSizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 30_000 })), {
  minLength: 1,
  maxLength: 20,
});

describe("a link answers every request as the oracle does", () => {
  test.each<[string, () => Source]>([
    ["from memory", () => padToBlocks(new PatternSource(SIZE), 512)],
    ["from a file", () => padToBlocks(file, 512)],
  ])(
    "%s",
    (_, open) => {
      fc.assert(
        fc.property(requestLists, pieceSizes, fc.boolean(), (requests, sizes, small) => {
          check(open(), requests, sizes, small);
        }),
        { numRuns: 60 },
      );
    },
    60_000,
  );
});

describe("a link that is cut off by nonsense", () => {
  test("has answered everything before it, and nothing after", () => {
    fc.assert(
      fc.property(
        requestLists,
        fc.uint8Array({ minLength: 28, maxLength: 100 }),
        pieceSizes,
        (requests, noise, sizes) => {
          noise[0] = 0;
          const harness = new HandDrivenLink(padToBlocks(file, 512));
          try {
            const stream = Buffer.concat([streamOf(requests), noise, streamOf(requests)]);
            const heard = converse(harness, stream, sizes);
            const expected = requests.map(oracle);
            const replies = parseReplies(heard, (cookie) => expected[Number(cookie)]?.data.length ?? 0);
            expect(replies).toHaveLength(requests.length);
            expect(harness.ends).toMatchObject([{ kind: "protocol-error" }]);
          } finally {
            harness.dispose();
          }
        },
      ),
      { numRuns: 40 },
    );
  });
});
