/**
 * A small send(2) on a unix stream is taken whole or not at all: every takeover rests on this fact of the kernel.
 *
 * The product sends at most ATOMIC_BYTES in one call where recovery must decide whether a reply was sent (journal.ts,
 * recovery.ts). Here the send buffer has every amount of room left, from none to plenty, and each call is checked from
 * both ends.
 */
import { expect, test } from "vitest";
import { ATOMIC_BYTES } from "../../../src/serving/replies/journaled-replies.ts";
import { close } from "../../../src/sys/libc/files.ts";
import {
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  recv,
  SO_SNDBUF,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  send,
  setSocketOption,
  socketPair,
  unreadBytes,
} from "../../../src/sys/libc/sockets.ts";
import { guarded } from "./leftovers.ts";

const EAGAIN = 11;
const REPLY_BYTES = 4096 + 16;
const FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
const bytes = new Uint8Array(1 << 20);
const drain = new Uint8Array(1 << 20);

guarded();

/** Fills a socket with sends of `stepBytes` until it takes no more, then has `roomBytes` read from it again. */
function nearlyFull(
  bufferBytes: number,
  stepBytes: number,
  roomBytes: number,
): { ours: number; theirs: number } {
  const [ours, theirs] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
  expect(setSocketOption(ours, SOL_SOCKET, SO_SNDBUF, bufferBytes)).toBe(0);
  while (send(ours, bytes, stepBytes, FLAGS) > 0);
  if (roomBytes > 0) recv(theirs, drain, roomBytes, MSG_DONTWAIT);
  return { ours, theirs };
}

/** What one send of `lengthBytes` did there: what it returned, and what its peer can read of it. */
function trySend(
  room: { bufferBytes: number; stepBytes: number; roomBytes: number },
  lengthBytes: number,
): { returned: number; arrivedBytes: number } {
  const { ours, theirs } = nearlyFull(room.bufferBytes, room.stepBytes, room.roomBytes);
  try {
    const before = unreadBytes(theirs);
    const returned = send(ours, bytes, lengthBytes, FLAGS);
    return { returned, arrivedBytes: unreadBytes(theirs) - before };
  } finally {
    close(ours);
    close(theirs);
  }
}

/**
 * Every amount of room around a send: in steps of an odd number, in buffers of several sizes, filled in several ways.
 * One skb may take half of the buffer (af_unix.c, unix_stream_sendmsg): with less than twice ATOMIC_BYTES (the kernel
 * doubles what is requested) a send would be cut. The product's links have at least net.core.wmem_default.
 */
function* rooms(): Generator<{ bufferBytes: number; stepBytes: number; roomBytes: number }> {
  for (const bufferBytes of [40 << 10, 64 << 10, 104 << 10, 208 << 10, 1 << 20])
    for (const stepBytes of [16, REPLY_BYTES, ATOMIC_BYTES])
      for (let roomBytes = 0; roomBytes <= 3 * ATOMIC_BYTES; roomBytes += 4999)
        if (stepBytes > 16 || bufferBytes <= 64 << 10) yield { bufferBytes, stepBytes, roomBytes };
}

test("a send of up to ATOMIC_BYTES is accepted whole or not at all, however full the socket is", () => {
  const lengths = [16, REPLY_BYTES - 1, 3 * REPLY_BYTES, ATOMIC_BYTES - 1, ATOMIC_BYTES];
  const seen = { whole: 0, refused: 0 };
  for (const room of rooms()) {
    for (const lengthBytes of lengths) {
      const { returned, arrivedBytes } = trySend(room, lengthBytes);
      const what = `${lengthBytes} bytes with ${JSON.stringify(room)}`;
      if (returned === -EAGAIN) {
        expect(arrivedBytes, what).toBe(0);
        seen.refused += 1;
      } else {
        expect(returned, what).toBe(lengthBytes);
        expect(arrivedBytes, what).toBe(lengthBytes);
        seen.whole += 1;
      }
    }
  }
  // Both have happened often, so the amounts of room were around the limit.
  expect(seen.whole).toBeGreaterThan(100);
  expect(seen.refused).toBeGreaterThan(100);
});

test("a send of much more is taken in part, so the limit is needed", () => {
  const partial = [...rooms()].filter((room) => {
    const { returned, arrivedBytes } = trySend(room, bytes.length);
    if (returned > 0) expect(arrivedBytes).toBe(returned);
    return returned > 0 && returned < bytes.length;
  });
  expect(partial.length).toBeGreaterThan(10);
});
