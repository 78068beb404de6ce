/**
 * The read-serving loop, request by request: each kind gets exactly the reply it has earned, whatever the pieces in
 * which it arrives and whatever comes before and after.
 */
import { afterEach, describe, expect, test, vi } from "vitest";
import { SourceError } from "../../../src/source/source.ts";
import { close, duplicate } from "../../../src/sys/libc/files.ts";
import { PatternSource, patternAt } from "../../helpers/images/sources.ts";
import { HandDrivenLink } from "../../helpers/nbd/hand-driven-link.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";

// Megabytes pass through here: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });

const SIZE = 100_000;
const [READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] = [0, 1, 2, 3, 4, 5, 6, 7];
const [EPERM, EIO, EINVAL] = [1, 5, 22];
const MAX = 32 * 1024 * 1024;

let harness: HandDrivenLink;
afterEach(() => harness?.dispose());

function start(source: PatternSource = new PatternSource(SIZE)): HandDrivenLink {
  harness = new HandDrivenLink(source);
  return harness;
}

const header = (type: number, cookie: bigint, at: number | bigint, length: number, flags = 0): Buffer =>
  requestHeader(type, flags, cookie, BigInt(at), length);

/** A read that must work, as a check that the stream is still understood. */
function expectReadWorks(cookie = 0xfeedn): void {
  harness.say(header(READ, cookie, 1234, 77));
  expect(harness.replies(() => 77)).toEqual([{ errno: 0, cookie, data: patternAt(1234, 77) }]);
}

describe("READ", () => {
  test.each([
    ["the first byte", 0, 1],
    ["a block", 4096, 4096],
    ["an odd range", 12_345, 6789],
    ["the last byte", SIZE - 1, 1],
    ["everything", 0, SIZE],
  ])("gets %s", (_, at, length) => {
    start();
    harness.say(header(READ, 0x0123_4567_89ab_cdefn, at, length));
    expect(harness.replies(() => length)).toEqual([
      { errno: 0, cookie: 0x0123_4567_89ab_cdefn, data: patternAt(at, length) },
    ]);
    expect(harness.link.counters).toEqual({ requests: 1, readBytes: length, readErrors: 0 });
  });

  test.each([
    ["one byte past the end", SIZE, 1, 0],
    ["across the end", SIZE - 10, 11, 0],
    ["far past the end", 1n << 50n, 1, 0],
    ["at an offset beyond what a number holds", (1n << 64n) - 1n, 512, 0],
    ["with offset and length that overflow", (1n << 64n) - 512n, 512, 0],
    ["of nothing", 0, 0, 0],
    ["of more than 32 MiB", 0, MAX + 1, 0],
    ["of 4 GiB", 0, 0xffff_ffff, 0],
    ["with a flag", 0, 512, 1],
  ])("is refused %s", (_, at, length, flags) => {
    const source = new PatternSource(SIZE);
    start(source);
    harness.say(header(READ, 7n, at, length, flags));
    expect(harness.replies(() => 0)).toEqual([{ errno: EINVAL, cookie: 7n, data: Buffer.alloc(0) }]);
    expect(source.reads).toBe(0);
    expectReadWorks();
  });

  test("fails with EIO when the source does, and works again when the source does", () => {
    const source = new PatternSource(SIZE);
    start(source);
    source.readFailure = new SourceError("cannot read: no");
    harness.say(header(READ, 1n, 0, 512));
    expect(harness.replies(() => 512)).toMatchObject([{ errno: EIO, cookie: 1n }]);
    expect(harness.errors).toEqual([source.readFailure]);
    expect(harness.link.counters).toEqual({ requests: 1, readBytes: 0, readErrors: 1 });
    source.readFailure = undefined;
    expectReadWorks();
  });

  test("does not hide a bug of a source behind EIO", () => {
    const source = new PatternSource(SIZE);
    start(source);
    source.readFailure = new TypeError("a bug");
    harness.put(header(READ, 1n, 0, 512));
    expect(() => harness.turn()).toThrow("a bug");
  });
});

describe("everything else", () => {
  test.each([
    ["FLUSH", FLUSH, EINVAL],
    ["TRIM", TRIM, EPERM],
    ["WRITE_ZEROES", WRITE_ZEROES, EPERM],
    ["CACHE", CACHE, EINVAL],
    ["BLOCK_STATUS", BLOCK_STATUS, EINVAL],
    ["a command from the future", 4711, EINVAL],
  ])("%s is refused once and has no payload", (_, type, errno) => {
    start();
    harness.say(Buffer.concat([header(type ?? 0, 5n, 0, 4096), header(READ, 6n, 0, 10)]));
    const replies = harness.replies((cookie) => (cookie === 6n ? 10 : 0));
    expect(replies.map((reply) => [reply.cookie, reply.errno])).toEqual(
      expect.arrayContaining([
        [5n, errno],
        [6n, 0],
      ]),
    );
    expect(replies).toHaveLength(2);
  });

  test.each([1, 27, 28, 4096, 16_384, 16_385, 300_000])(
    "WRITE of %i bytes is refused once, its payload swallowed",
    (length) => {
      start();
      // The payload looks like requests, so that a wrong count shows.
      const payload = Buffer.alloc(length, header(READ, 99n, 0, 1));
      harness.say(Buffer.concat([header(WRITE, 5n, 0, length), payload, header(READ, 6n, 10, 10)]));
      const replies = harness.replies((cookie) => (cookie === 6n ? 10 : 0));
      expect(replies.map((reply) => [reply.cookie, reply.errno])).toEqual([
        [5n, EPERM],
        [6n, 0],
      ]);
      expect(harness.ends).toEqual([]);
    },
  );

  test("WRITE is answered without waiting for its payload's end, and only once", () => {
    start();
    harness.say(header(WRITE, 5n, 0, 100));
    harness.say(Buffer.alloc(60));
    const early = harness.replies(() => 0);
    harness.say(Buffer.alloc(40));
    expect([...early, ...harness.replies(() => 0)]).toMatchObject([{ errno: EPERM, cookie: 5n }]);
    expectReadWorks();
  });

  test("WRITE of more than 32 MiB cuts the link after what came before was answered", () => {
    start();
    harness.say(Buffer.concat([header(READ, 1n, 0, 10), header(WRITE, 2n, 0, MAX + 1)]));
    expect(harness.replies(() => 10)).toMatchObject([{ errno: 0, cookie: 1n }]);
    expect(harness.ends).toMatchObject([
      { kind: "protocol-error", message: expect.stringContaining("write") },
    ]);
    expect(harness.atEnd()).toBe(true);
  });

  test("DISC ends the link without a reply, after what came before was answered", () => {
    start();
    harness.say(Buffer.concat([header(READ, 1n, 0, 10), header(DISC, 2n, 0, 0), header(READ, 3n, 0, 10)]));
    expect(harness.replies(() => 10)).toMatchObject([{ errno: 0, cookie: 1n }]);
    expect(harness.ends).toEqual([{ kind: "disconnect" }]);
    expect(harness.atEnd()).toBe(true);
  });

  test("a wrong magic cuts the link after what came before was answered", () => {
    start();
    const bad = header(READ, 2n, 0, 10);
    bad.writeUInt8(0, 0);
    harness.say(Buffer.concat([header(READ, 1n, 0, 10), bad, header(READ, 3n, 0, 10)]));
    expect(harness.replies(() => 10)).toMatchObject([{ errno: 0, cookie: 1n }]);
    expect(harness.ends).toMatchObject([
      { kind: "protocol-error", message: expect.stringContaining("at byte 28") },
    ]);
    expect(harness.atEnd()).toBe(true);
  });

  test("the peer's end of file ends the link, in the middle of a request too", () => {
    start();
    harness.say(header(READ, 1n, 0, 10).subarray(0, 20));
    harness.closePeer();
    harness.turn();
    expect(harness.ends).toEqual([{ kind: "end-of-file" }]);
  });

  test("an end reaches the peer although another process keeps a duplicate of the socket", () => {
    start();
    const kept = duplicate(harness.serverFd);
    harness.link.close();
    expect(harness.atEnd()).toBe(true);
    close(kept);
  });

  test("close() ends the link once and tells so", () => {
    start();
    harness.link.close();
    harness.link.close();
    expect(harness.ends).toEqual([{ kind: "closed" }]);
    expect(harness.atEnd()).toBe(true);
  });
});

describe("a stream", () => {
  const stream = Buffer.concat([
    header(READ, 1n, 5, 100),
    header(WRITE, 2n, 0, 50),
    Buffer.alloc(50, 0x25),
    header(READ, 3n, SIZE, 1),
    header(TRIM, 4n, 0, 10),
    header(READ, 5n, 77, 3),
  ]);
  const dataBytes = (cookie: bigint): number => ({ 1: 100, 5: 3 })[Number(cookie)] ?? 0;
  const expected = [
    { errno: 0, cookie: 1n, data: patternAt(5, 100) },
    { errno: EPERM, cookie: 2n, data: Buffer.alloc(0) },
    { errno: EINVAL, cookie: 3n, data: Buffer.alloc(0) },
    { errno: EPERM, cookie: 4n, data: Buffer.alloc(0) },
    { errno: 0, cookie: 5n, data: patternAt(77, 3) },
  ];
  const inCookieOrder = (replies: { cookie: bigint }[]): unknown[] =>
    [...replies].sort((a, b) => Number(a.cookie - b.cookie));

  test("is understood when it is cut in two at any byte", () => {
    start();
    for (let cut = 1; cut < stream.length; cut += 1) {
      harness.say(stream.subarray(0, cut));
      harness.say(stream.subarray(cut));
      expect(inCookieOrder(harness.replies(dataBytes))).toEqual(expected);
    }
    expect(harness.ends).toEqual([]);
    expect(harness.firstRequests).toBe(1);
  });

  test("is understood byte by byte", () => {
    start();
    for (const byte of stream) harness.say(Uint8Array.of(byte));
    expect(inCookieOrder(harness.replies(dataBytes))).toEqual(expected);
  });

  test("can begin with what came together with a handshake, at any cut", () => {
    for (let cut = 0; cut <= stream.length; cut += 13) {
      start();
      harness.link.start(stream.subarray(0, cut));
      harness.say(stream.subarray(cut));
      expect(inCookieOrder(harness.replies(dataBytes))).toEqual(expected);
      harness.dispose();
    }
  });

  test("of two thousand requests at once gets two thousand replies", () => {
    start();
    const count = 2000;
    const requests = Array.from({ length: count }, (_, index) =>
      header(READ, BigInt(index + 1), (index * 37) % 90_000, 1 + (index % 512)),
    );
    harness.put(Buffer.concat(requests));
    const replies = harness.replies((cookie) => 1 + ((Number(cookie) - 1) % 512));
    expect(new Set(replies.map((reply) => reply.cookie)).size).toBe(count);
    expect(replies).toHaveLength(count);
    for (const { errno, cookie, data } of replies) {
      const index = Number(cookie) - 1;
      expect(errno).toBe(0);
      expect(data.equals(patternAt((index * 37) % 90_000, 1 + (index % 512)))).toBe(true);
    }
    expect(harness.link.counters.requests).toBe(count);
  });
});

describe("verification", () => {
  test("that fails turns the data replies of a whole batch into EIO, each with its own cookie", () => {
    const source = new PatternSource(SIZE);
    start(source);
    source.verifyFailure = new SourceError("cannot serve: it was modified");
    const sizes = [1, 512, 4096, 17];
    const cookies = [0x1111n, 0xffff_ffff_ffff_ffffn, 0x3333n, 0x4444_0000_0000_0001n];
    harness.put(
      Buffer.concat([
        ...sizes.map((size, index) => header(READ, cookies[index] ?? 0n, index * 5000, size)),
        header(WRITE, 9n, 0, 0),
      ]),
    );
    const replies = harness.replies(() => 0);
    expect(replies.filter((reply) => reply.errno === EIO).map((reply) => reply.cookie)).toEqual(cookies);
    expect(replies).toHaveLength(5);
    expect(harness.errors).toEqual([source.verifyFailure]);
    expect(harness.link.counters).toMatchObject({ requests: 5, readErrors: 4 });
    source.verifyFailure = undefined;
    expectReadWorks();
  });

  test("takes place after the reads of a batch and before they leave, once", () => {
    const source = new PatternSource(SIZE);
    start(source);
    harness.put(Buffer.concat([1n, 2n, 3n].map((cookie) => header(READ, cookie, 0, 100))));
    let readsSeen = 0;
    source.verify = () => {
      readsSeen = source.reads;
      source.verifications += 1;
      expect(harness.hearNothing()).toBe(true);
    };
    harness.turn();
    expect([readsSeen, source.verifications]).toEqual([3, 1]);
    expect(harness.replies(() => 100)).toHaveLength(3);
  });
});
