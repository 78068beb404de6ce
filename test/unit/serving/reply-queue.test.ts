/**
 * Replies that a socket did not take at once: in order, from buffers that are used again, from files that end.
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { ReplyQueue } from "../../../src/serving/replies/reply-queue.ts";
import type { FileExtent } from "../../../src/source/source.ts";
import { ERRNO } from "../../../src/sys/errno.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { MSG_DONTWAIT, recv, SOCK_NONBLOCK, SOCK_STREAM, socketPair } from "../../../src/sys/libc/sockets.ts";
import { patternAt, sharedExtent } from "../../helpers/images/sources.ts";

const MIB = 1 << 20;
const HEADER = 16;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-queue-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let queue: ReplyQueue;
let ours: number;
let peer: number;
let file: number;
const directoryFd = openSync(directory, "r");
afterAll(() => closeSync(directoryFd));
beforeEach(() => {
  [ours, peer] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
  queue = new ReplyQueue(ours);
  writeFileSync(join(directory, "file"), patternAt(0, MIB));
  file = openSync(join(directory, "file"), "r");
});
afterEach(() => {
  queue.close();
  closeSync(file);
  close(ours);
  close(peer);
});

function unprotectedExtent(): FileExtent {
  const extent = sharedExtent(file, 0);
  return { ...extent, owner: { ...extent.owner, mayShare: false } };
}

/** What has arrived, without a flush. */
function arrived(): Buffer {
  const piece = new Uint8Array(MIB);
  const pieces: Buffer[] = [];
  for (let got = 1; got > 0; ) {
    got = recv(peer, piece, piece.length, MSG_DONTWAIT);
    if (got > 0) pieces.push(Buffer.from(piece.subarray(0, got)));
  }
  return Buffer.concat(pieces);
}

/** Sends a header and a range, as the loop does: from the page cache, or copied when the queue says so. */
function sendRange(offsetBytes: number, lengthBytes: number): number {
  const header = patternAt(offsetBytes - HEADER, HEADER);
  const sent = queue.sendFile(header, sharedExtent(file, offsetBytes), lengthBytes);
  return sent ?? queue.sendOwned(patternAt(offsetBytes - HEADER, HEADER + lengthBytes));
}

/** Hears and flushes until nothing waits. */
function drain(): Buffer {
  const pieces = [arrived()];
  while (!queue.isEmpty) {
    expect(queue.flush()).toBe(0);
    pieces.push(arrived());
  }
  return Buffer.concat(pieces);
}

describe("a reply queue", () => {
  test("is empty for as long as the socket takes everything", () => {
    expect(queue.sendBatch(patternAt(0, 1000), 500)).toBe(0);
    expect(queue.sendOwned(patternAt(500, 500))).toBe(0);
    expect(queue.sendFile(patternAt(1000, HEADER), sharedExtent(file, 1000 + HEADER), 1000)).toBe(0);
    expect(queue.isEmpty).toBe(true);
    expect(arrived().equals(patternAt(0, 2000 + HEADER))).toBe(true);
  });

  test("keeps what is left of a shared buffer, which may be used again at once", () => {
    const shared = new Uint8Array(patternAt(0, MIB));
    queue.sendBatch(shared, MIB);
    expect(queue.isEmpty).toBe(false);
    shared.fill(0);
    expect(drain().equals(patternAt(0, MIB))).toBe(true);
  });

  test("keeps everything in the order in which it was sent", () => {
    const parts: (() => number)[] = [
      () => queue.sendOwned(patternAt(0, 300_000)),
      () => sendRange(300_016, 400_000),
      () => queue.sendBatch(patternAt(700_016, 100), 100),
      () => sendRange(700_132, MIB - 700_132),
    ];
    expect(parts.map((send) => send())).toEqual([0, 0, 0, 0]);
    expect([queue.isEmpty, queue.needsFile]).toEqual([false, true]);
    expect(drain().equals(patternAt(0, MIB))).toBe(true);
    expect([queue.isEmpty, queue.needsFile]).toEqual([true, false]);
  });

  test.each([
    ["ends inside the range, a small one", () => sharedExtent(file, MIB - 900), 1000],
    ["ends inside the range, a large one", () => sharedExtent(file, MIB - 899_900), 900_000],
    ["cannot be spliced", () => sharedExtent(directoryFd, 0), 100_000],
    ["is not protected any more", () => unprotectedExtent(), 100_000],
    ["is more than a pipe takes", () => sharedExtent(file, 0), 5 * MIB],
  ])("sends nothing when the file %s, and goes on", (_, extent, lengthBytes) => {
    expect(queue.sendFile(patternAt(0, HEADER), extent(), lengthBytes)).toBe(undefined);
    expect([queue.isEmpty, queue.sharesPages]).toEqual([true, false]);
    expect(arrived()).toHaveLength(0);
    expect(sendRange(5000, 300_000)).toBe(0);
    expect(drain().equals(patternAt(5000 - HEADER, HEADER + 300_000))).toBe(true);
  });

  test("reports a peer that is gone as a negative errno, queued or not", () => {
    queue.sendOwned(patternAt(0, MIB));
    close(peer);
    peer = -1;
    expect(queue.flush()).toBe(-ERRNO.EPIPE);
    expect(new ReplyQueue(ours).sendOwned(patternAt(0, 10))).toBe(-ERRNO.EPIPE);
    expect(new ReplyQueue(ours).sendFile(patternAt(0, HEADER), sharedExtent(file, 0), 10)).toBe(-ERRNO.EPIPE);
  });
});
