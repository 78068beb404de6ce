/**
 * Request streams for framer tests: builds one from requests (payloads included), and feeds one to a framer in pieces.
 */

import type { RequestFramer } from "../../../src/nbd/request-framer.ts";
import {
  encodeRequestInto,
  NBD_CMD_WRITE,
  type NbdRequest,
  newRequest,
  REQUEST_BYTES,
} from "../../../src/nbd/wire.ts";

/** The bytes of `requests` one after the other, each WRITE followed by its payload of 0x25 (a magic's first byte). */
export function streamOf(requests: readonly NbdRequest[]): Uint8Array {
  const pieces = requests.map((request) => {
    const payloadBytes = request.type === NBD_CMD_WRITE ? request.lengthBytes : 0;
    const bytes = new Uint8Array(REQUEST_BYTES + payloadBytes).fill(0x25);
    encodeRequestInto(bytes, 0, request);
    return bytes;
  });
  return Uint8Array.from(Buffer.concat(pieces));
}

/** Feeds the pieces through the inbox as a receiving loop would, and returns every request the framer yields. */
export function feed(framer: RequestFramer, pieces: readonly Uint8Array[]): NbdRequest[] {
  const got: NbdRequest[] = [];
  const request = newRequest();
  for (const piece of pieces) {
    for (let at = 0; at < piece.length; ) {
      if (framer.space === 0) throw new Error("the framer leaves no room after it ran dry");
      const count = Math.min(framer.space, piece.length - at);
      framer.inbox.set(piece.subarray(at, at + count), framer.receiveAt);
      framer.received(count);
      at += count;
      while (framer.next(request)) {
        got.push({ ...request });
        if (request.type === NBD_CMD_WRITE) framer.skip(request.lengthBytes);
      }
    }
  }
  return got;
}
