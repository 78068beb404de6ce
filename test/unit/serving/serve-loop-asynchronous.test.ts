/**
 * Sources that answer later: replies in whatever order their data comes, failures, ends in between, and the bound on
 * what may be under way.
 */
import { afterEach, describe, expect, test, vi } from "vitest";
import { MAX_ASYNC_BYTES } from "../../../src/serving/late-replies.ts";
import { padToBlocks } from "../../../src/source/padded-source.ts";
import { EPOLLERR, EPOLLHUP, EPOLLIN } from "../../../src/sys/epoll.ts";
import { DeferredSource, patternAt } from "../../helpers/images/sources.ts";
import { HandDrivenLink, type Reply } from "../../helpers/nbd/hand-driven-link.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";
import { until } from "../../helpers/until.ts";

// Megabytes pass through here: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });

const EIO = 5;
const MIB = 1 << 20;
let source: DeferredSource;
let harness: HandDrivenLink;
afterEach(() => harness.dispose());

function start(sizeBytes = MIB): void {
  source = new DeferredSource(sizeBytes);
  harness = new HandDrivenLink(source);
}

const read = (cookie: bigint, at: number, length: number): Buffer =>
  requestHeader(0, 0, cookie, BigInt(at), length);
const disc = requestHeader(2, 0, 0n, 0n, 0);

/** Hears replies until there are so many. */
async function replies(count: number, dataBytes: number): Promise<Reply[]> {
  const heard: Reply[] = [];
  await until(`${count} replies have come`, () => {
    heard.push(...harness.replies(() => dataBytes));
    return heard.length >= count;
  });
  return heard;
}

describe("an asynchronous source", () => {
  test("gets all requests at once, and is answered in its own order", async () => {
    start();
    harness.put(Buffer.concat([1, 2, 3, 4].map((index) => read(BigInt(index), index * 1000, 100))));
    harness.turn();
    expect(source.pending.map((pending) => pending.offsetBytes)).toEqual([1000, 2000, 3000, 4000]);
    expect(harness.hear()).toHaveLength(0);
    for (const index of [2, 0, 1, 0]) {
      const pending = source.pending[index];
      const at = pending?.offsetBytes ?? 0;
      pending?.fulfil();
      expect(await replies(1, 100)).toEqual([
        { errno: 0, cookie: BigInt(at / 1000), data: patternAt(at, 100) },
      ]);
    }
    expect(harness.link.counters).toEqual({ requests: 4, readBytes: 400, readErrors: 0 });
  });

  test("that fails gets EIO for that read alone", async () => {
    start();
    harness.say(Buffer.concat([read(1n, 0, 100), read(2n, 100, 100)]));
    source.pending[0]?.fail();
    expect(await replies(1, 100)).toMatchObject([{ errno: EIO, cookie: 1n }]);
    source.pending[0]?.fulfil();
    expect(await replies(1, 100)).toMatchObject([{ errno: 0, cookie: 2n }]);
    expect(harness.errors.map((error) => error.message)).toEqual(["cannot read: the test says so"]);
  });

  test("does not keep requests that need no data waiting", async () => {
    start();
    harness.say(Buffer.concat([read(1n, 0, 100), read(2n, MIB, 1), requestHeader(4, 0, 3n, 0n, 10)]));
    expect(harness.replies(() => 0).map((reply) => reply.cookie)).toEqual([2n, 3n]);
    source.pending[0]?.fulfil();
    expect(await replies(1, 100)).toMatchObject([{ cookie: 1n }]);
  });

  test("works with padding behind it", async () => {
    source = new DeferredSource(1000);
    harness = new HandDrivenLink(padToBlocks(source, 512));
    harness.say(Buffer.concat([read(1n, 512, 512), read(2n, 1001, 10)]));
    // The second lies in the padding alone, so the source was not asked; it still comes through the event loop.
    expect(source.pending.map((pending) => pending.lengthBytes)).toEqual([488]);
    expect(await replies(1, 10)).toEqual([{ errno: 0, cookie: 2n, data: Buffer.alloc(10) }]);
    source.pending[0]?.fulfil();
    expect(await replies(1, 512)).toEqual([
      { errno: 0, cookie: 1n, data: Buffer.concat([patternAt(512, 488), Buffer.alloc(24)]) },
    ]);
  });

  test.each([
    ["close()", (): void => harness.link.close(), "closed"],
    ["the peer's end", (): void => harness.closePeer(), "end-of-file"],
  ])("may answer after %s, and nobody minds", async (_, end, kind) => {
    start();
    harness.say(Buffer.concat([read(1n, 0, 100), read(2n, 0, 100)]));
    end();
    harness.turn();
    expect(harness.ends).toEqual([{ kind }]);
    source.pending[0]?.fulfil();
    source.pending[0]?.fail();
    await until("both reads have settled", () => source.pending.length === 0);
    await new Promise(setImmediate);
    expect(harness.ends).toHaveLength(1);
  });

  test("has its last answers sent before a disconnect takes effect", async () => {
    start();
    harness.say(Buffer.concat([read(1n, 0, 100), read(2n, 0, 100), disc]));
    expect(harness.ends).toEqual([]);
    for (const pending of [...source.pending].reverse()) pending.fulfil();
    expect((await replies(2, 100)).map((reply) => reply.cookie)).toEqual([2n, 1n]);
    expect(harness.ends).toEqual([{ kind: "disconnect" }]);
  });

  test("is not waited for when the peer left right after its disconnect", async () => {
    start();
    harness.say(Buffer.concat([read(1n, 0, 100), disc]));
    harness.closePeer();
    harness.turn(EPOLLHUP | EPOLLIN);
    expect(harness.ends).toEqual([{ kind: "disconnect" }]);
    source.pending[0]?.fulfil();
  });
});

describe("what is under way", () => {
  const LENGTH = 4 * MIB;

  test("stays below the bound, and goes on as soon as there is room", async () => {
    start(LENGTH);
    const count = 64;
    harness.put(Buffer.concat(Array.from({ length: count }, (_, index) => read(BigInt(index), 0, LENGTH))));
    harness.turn();
    let most = 0;
    const seen = new Set<bigint>();
    while (seen.size < count) {
      most = Math.max(most, source.pendingBytes);
      expect(source.pending.length).toBeGreaterThan(0);
      source.pending[0]?.fulfil();
      for (const { errno, cookie } of await replies(1, LENGTH)) {
        expect(errno).toBe(0);
        seen.add(cookie);
      }
    }
    // The read that reaches the bound is still begun.
    expect(most).toBeGreaterThan(MAX_ASYNC_BYTES - LENGTH);
    expect(most).toBeLessThan(MAX_ASYNC_BYTES + LENGTH);
  });

  test("does not turn into a spinning link when the peer leaves at the bound", () => {
    start(32 * MIB);
    harness.put(Buffer.concat([1n, 2n, 3n].map((cookie) => read(cookie, 0, 32 * MIB))));
    harness.turn();
    expect(source.pending.length).toBe(2);
    harness.closePeer();
    harness.turn(EPOLLHUP | EPOLLERR);
    expect(harness.ends).toEqual([{ kind: "end-of-file" }]);
  });
});
