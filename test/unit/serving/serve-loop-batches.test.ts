/**
 * Batches, sizes and slow readers: replies around the outbox's size and the size from which they come straight from
 * the page cache; sockets that take only a part; files that fail in the middle of a reply.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test, vi } from "vitest";
import { OUTBOX_BYTES } from "../../../src/serving/outbox.ts";
import { ReplyQueue } from "../../../src/serving/replies/reply-queue.ts";
import type { FileSource } from "../../../src/source/file-source.ts";
import { padToBlocks } from "../../../src/source/padded-source.ts";
import { openPatternFile, openSharedFile, PatternSource, patternAt } from "../../helpers/images/sources.ts";
import { HandDrivenLink } from "../../helpers/nbd/hand-driven-link.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";

// Megabytes pass through here: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });

const HEADER = 16;
const EIO = 5;
/** From this size on a reply goes from the page cache. */
const SENDFILE_MIN_BYTES = new ReplyQueue(-1).fileMinBytes;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-loop-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let harness: HandDrivenLink;
let file: FileSource | undefined;
let images = 0;
let image = "";
afterEach(() => {
  harness?.dispose();
  file?.close();
  file = undefined;
});

function startFile(
  sizeBytes: number,
  options: { copyOnly?: boolean; isShared?: boolean } = {},
): HandDrivenLink {
  image = join(directory, `image-${images++}`);
  file = (options.isShared === false ? openPatternFile : openSharedFile)(image, sizeBytes);
  harness = new HandDrivenLink(file, options);
  return harness;
}

const read = (cookie: bigint, at: number, length: number): Buffer =>
  requestHeader(0, 0, cookie, BigInt(at), length);

/** Sends reads of these lengths in one go, the n-th from offset n, and checks all replies byte by byte. */
function expectBatch(lengths: readonly number[]): void {
  harness.put(Buffer.concat(lengths.map((length, index) => read(BigInt(index), index, length))));
  const replies = harness.replies((cookie) => lengths[Number(cookie)] ?? 0);
  expect(replies.map((reply) => Number(reply.cookie)).sort((a, b) => a - b)).toEqual(
    lengths.map((_, i) => i),
  );
  for (const { errno, cookie, data } of replies) {
    expect(errno).toBe(0);
    expect(data.equals(patternAt(Number(cookie), lengths[Number(cookie)] ?? 0))).toBe(true);
  }
}

const around = (bytes: number): number[] => [bytes - 1, bytes, bytes + 1];

describe("replies from memory", () => {
  test.each(around(OUTBOX_BYTES - HEADER))("of %i bytes fit into the outbox or go alone", (length) => {
    harness = new HandDrivenLink(new PatternSource(OUTBOX_BYTES * 2));
    expectBatch([length]);
    expectBatch([10, length, 10]);
    expectBatch([length, length]);
  });

  test.each(around(OUTBOX_BYTES / 2 - HEADER))("two of %i bytes fill it, or do not", (length) => {
    harness = new HandDrivenLink(new PatternSource(OUTBOX_BYTES * 2));
    expectBatch([length, length]);
    expectBatch([length, length, 1, length]);
  });

  test("of any sizes leave in as many outboxes as it takes", () => {
    harness = new HandDrivenLink(new PatternSource(OUTBOX_BYTES * 2));
    expectBatch(Array.from({ length: 300 }, (_, index) => 1 + ((index * 7919) % 20_000)));
  });
});

describe("replies from a file", () => {
  test.each(around(SENDFILE_MIN_BYTES))("of %i bytes", (length) => {
    startFile(SENDFILE_MIN_BYTES * 3);
    expectBatch([length]);
    expectBatch([10, length, 10, length, 512]);
  });

  test("mix small and large ones in one batch", () => {
    startFile(3 << 20);
    expectBatch([4096, 1 << 20, 512, 1 << 20, 100_000, 1, SENDFILE_MIN_BYTES, 300_000, 4096]);
  });

  test("are copied when the link says so", () => {
    startFile(1 << 20, { copyOnly: true });
    const source = file as FileSource;
    source.extent = () => {
      throw new Error("asked for an extent");
    };
    expectBatch([4096, SENDFILE_MIN_BYTES, 300_000, 1000]);
  });

  test("are copied where they reach into the padding", () => {
    image = join(directory, "padded");
    file = openPatternFile(image, 200_001);
    harness = new HandDrivenLink(padToBlocks(file, 4096));
    const sizeBytes = 200_704;
    harness.put(read(1n, 100_000, sizeBytes - 100_000));
    const [reply] = harness.replies(() => sizeBytes - 100_000);
    expect(reply?.data.equals(Buffer.concat([patternAt(100_000, 100_001), Buffer.alloc(703)]))).toBe(true);
  });
});

describe("a socket that takes only a part at a time", () => {
  test.each([
    [
      "from memory",
      () => {
        harness = new HandDrivenLink(new PatternSource(2 << 20));
      },
    ],
    [
      "from a file",
      () => {
        startFile(2 << 20);
      },
    ],
    [
      "from a file, copied",
      () => {
        startFile(2 << 20, { copyOnly: true });
      },
    ],
  ])("gets everything in the end, %s", (_, start) => {
    start();
    harness.shrinkSocket();
    expectBatch([100, 1 << 20, 4096, 200_000, 64 * 1024, 1, 300_000, 4096]);
    expectBatch(Array.from({ length: 500 }, () => 4096));
    expect(harness.ends).toEqual([]);
  });

  test("makes its link wait before it reads on", () => {
    const source = new PatternSource(2 << 20);
    harness = new HandDrivenLink(source);
    harness.shrinkSocket();
    const count = 400;
    harness.put(Buffer.concat(Array.from({ length: count }, (_, i) => read(BigInt(i), 0, 100_000))));
    for (let turn = 0; turn < 100; turn += 1) harness.turn();
    // What one outbox holds, and one more: not the 40 MB that were asked for.
    expect(source.reads).toBeLessThanOrEqual(Math.ceil(OUTBOX_BYTES / 100_000) + 1);
    expect(harness.replies(() => 100_000)).toHaveLength(count);
  });

  test("still gets its replies after its disconnect", () => {
    startFile(2 << 20);
    harness.shrinkSocket();
    harness.put(Buffer.concat([read(1n, 0, 1 << 20), read(2n, 5, 4096), requestHeader(2, 0, 3n, 0n, 0)]));
    harness.turn();
    expect(harness.ends).toEqual([]);
    expect(harness.replies((cookie) => (cookie === 1n ? 1 << 20 : 4096))).toHaveLength(2);
    expect(harness.ends).toEqual([{ kind: "disconnect" }]);
  });

  test("may be closed with replies waiting", () => {
    startFile(2 << 20);
    harness.shrinkSocket();
    harness.put(Buffer.concat([read(1n, 0, 1 << 20), read(2n, 5, 4096)]));
    harness.turn();
    harness.closePeer();
    harness.turn();
    expect(harness.ends).toHaveLength(1);
    expect(harness.ends[0]?.kind).toMatch(/end-of-file|socket-error/);
  });
});

describe("a file that changes while it is served", () => {
  const LARGE = 1 << 20;

  test.each([
    ["truncated", () => truncateSync(image, 1000)],
    ["grown", () => truncateSync(image, LARGE * 2)],
    ["modified in place", () => writeFileSync(image, Buffer.alloc(LARGE), { flag: "r+" })],
  ])("is answered with EIO, small and large reads alike: %s", (_, change) => {
    startFile(LARGE, { isShared: false });
    expectBatch([4096, 200_000]);
    change();
    harness.put(Buffer.concat([read(1n, 0, 512), read(2n, 0, 200_000), read(3n, LARGE - 4096, 4096)]));
    const replies = harness.replies(() => 0);
    expect(replies.map((reply) => reply.errno)).toEqual([EIO, EIO, EIO]);
    expect(new Set(replies.map((reply) => reply.cookie))).toEqual(new Set([1n, 2n, 3n]));
    expect(harness.errors.length).toBeGreaterThan(0);
    expect(harness.link.counters.readErrors).toBe(3);
    expect(harness.ends).toEqual([]);
  });

  test.each([
    ["truncated", () => truncateSync(image, 300_000)],
    ["modified", () => writeFileSync(image, Buffer.alloc(LARGE), { flag: "r+" })],
  ])("ends the link when a reply has begun, and sends nothing else: %s", (_, change) => {
    startFile(LARGE);
    harness.shrinkSocket();
    harness.put(read(1n, 0, LARGE));
    harness.turn();
    change();
    const heard = harness.hear();
    expect(harness.ends).toMatchObject([{ kind: "source-error" }]);
    expect(heard.length).toBeLessThan(HEADER + LARGE);
    // What arrived before the cut is a true beginning of the reply; no byte of it was made up.
    const data = heard.subarray(HEADER);
    const fromOldFile = patternAt(0, data.length);
    const firstWrong = data.findIndex((byte, index) => byte !== fromOldFile[index]);
    // The socket holds the file's own pages, so an in-place change may show in what it had taken already.
    if (_ === "truncated") expect(firstWrong).toBe(-1);
    expect(harness.atEnd()).toBe(true);
  });
});
