/**
 * The request framer at every split of a mixed stream, at its limits, and at bytes that are not NBD.
 */

import { describe, expect, it } from "vitest";
import { NbdProtocolError } from "../../../src/nbd/protocol-error.ts";
import { RequestFramer } from "../../../src/nbd/request-framer.ts";
import {
  encodeRequestInto,
  NBD_CMD_WRITE,
  type NbdRequest,
  newRequest,
  REQUEST_BYTES,
} from "../../../src/nbd/wire.ts";
import { feed, streamOf } from "../../helpers/nbd/nbd-stream.ts";

const read = (cookieLow: number, lengthBytes = 4096): NbdRequest => ({
  ...newRequest(),
  cookieLow,
  lengthBytes,
});
const write = (cookieLow: number, lengthBytes: number): NbdRequest => ({
  ...read(cookieLow, lengthBytes),
  type: NBD_CMD_WRITE,
});

describe("RequestFramer", () => {
  const mixed = [read(1), write(2, 5), read(3), write(4, 0), write(5, 61), read(6), read(7)];

  it("yields the same requests at every split into two receives", () => {
    const stream = streamOf(mixed);
    for (let split = 0; split <= stream.length; split++) {
      const got = feed(new RequestFramer(new Uint8Array(4096)), [
        stream.subarray(0, split),
        stream.subarray(split),
      ]);
      expect(got, `split at ${split}`).toEqual(mixed);
    }
  });

  it("yields the same requests at every split into three receives, through the smallest inboxes", () => {
    const stream = streamOf(mixed);
    for (const inboxBytes of [REQUEST_BYTES, REQUEST_BYTES + 1, 41, 56]) {
      for (let first = 0; first <= stream.length; first += 3) {
        for (let second = first; second <= stream.length; second += 5) {
          const pieces = [stream.subarray(0, first), stream.subarray(first, second), stream.subarray(second)];
          const got = feed(new RequestFramer(new Uint8Array(inboxBytes)), pieces);
          expect(got, `inbox ${inboxBytes}, splits ${first} and ${second}`).toEqual(mixed);
        }
      }
    }
  });

  it("takes a stream byte by byte", () => {
    const stream = streamOf(mixed);
    const pieces = Array.from(stream, (byte) => Uint8Array.of(byte));
    expect(feed(new RequestFramer(new Uint8Array(REQUEST_BYTES)), pieces)).toEqual(mixed);
  });

  it("skips a payload far larger than its inbox without storing it", () => {
    const framer = new RequestFramer(new Uint8Array(64));
    const requests = [write(1, 100_000), read(2)];
    expect(feed(framer, [streamOf(requests)])).toEqual(requests);
    expect(framer.skippingBytes).toBe(0);
    expect(framer.bufferedBytes).toBe(0);
  });

  it("counts what is buffered and what is being skipped", () => {
    const framer = new RequestFramer(new Uint8Array(256));
    framer.inbox.set(streamOf([write(1, 40)]).subarray(0, 38));
    framer.received(38);
    expect(framer.bufferedBytes).toBe(38);
    expect(framer.next(newRequest())).toBe(true);
    framer.skip(40);
    expect([framer.bufferedBytes, framer.skippingBytes]).toEqual([0, 30]);
    expect(framer.next(newRequest())).toBe(false);
    framer.received(30);
    expect([framer.bufferedBytes, framer.skippingBytes]).toEqual([0, 0]);
  });

  it("receives at the inbox's beginning again once it has run dry", () => {
    const framer = new RequestFramer(new Uint8Array(256));
    framer.inbox.set(streamOf([read(1), read(2)]));
    framer.received(2 * REQUEST_BYTES);
    expect(framer.receiveAt).toBe(2 * REQUEST_BYTES);
    while (framer.next(newRequest()));
    expect([framer.receiveAt, framer.space]).toEqual([0, 256]);
  });

  it("moves a cut request only when little room is left, and always leaves room", () => {
    const framer = new RequestFramer(new Uint8Array(100));
    const stream = streamOf([read(1), read(2), read(3), read(4)]);
    framer.inbox.set(stream.subarray(0, 40));
    framer.received(40);
    while (framer.next(newRequest()));
    expect(framer.receiveAt, "60 bytes are room enough").toBe(40);
    framer.inbox.set(stream.subarray(40, 100), 40);
    framer.received(60);
    expect(framer.space).toBe(0);
    while (framer.next(newRequest()));
    expect([framer.receiveAt, framer.space]).toEqual([16, 84]);
  });

  it("refuses a wrong magic with its place in the stream, again and again", () => {
    const framer = new RequestFramer(new Uint8Array(256));
    const stream = streamOf([read(1), write(2, 4), read(3)]);
    const brokenAt = 2 * REQUEST_BYTES + 4;
    stream[brokenAt] = 0;
    framer.inbox.set(stream);
    framer.received(stream.length);
    const request = newRequest();
    expect(framer.next(request) && framer.next(request)).toBe(true);
    framer.skip(4);
    for (let attempt = 0; attempt < 2; attempt++) {
      const error = thrownBy(() => framer.next(request));
      expect(error).toBeInstanceOf(NbdProtocolError);
      expect(error).toMatchObject({
        code: "ERR_PROTOCOL",
        streamOffsetBytes: brokenAt,
        message:
          "cannot read an NBD request at byte 60 of the stream: it starts with 0x00609513, not 0x25609513",
      });
    }
    expect(request.cookieLow, "the record still holds the last good request").toBe(2);
  });

  it("keeps requests of one receive apart when the record is reused", () => {
    const framer = new RequestFramer(new Uint8Array(256));
    encodeRequestInto(framer.inbox, 0, read(1, 512));
    encodeRequestInto(framer.inbox, REQUEST_BYTES, read(2, 1024));
    framer.received(2 * REQUEST_BYTES);
    const request = newRequest();
    framer.next(request);
    expect([request.cookieLow, request.lengthBytes]).toEqual([1, 512]);
    framer.next(request);
    expect([request.cookieLow, request.lengthBytes]).toEqual([2, 1024]);
  });

  it("refuses an inbox below one request and a count it has no room for", () => {
    expect(() => new RequestFramer(new Uint8Array(REQUEST_BYTES - 1))).toThrow(RangeError);
    const framer = new RequestFramer(new Uint8Array(64));
    expect(() => framer.received(65)).toThrow(RangeError);
    expect(() => framer.received(-1)).toThrow(RangeError);
    expect(() => framer.received(Number.NaN)).toThrow(RangeError);
  });
});

function thrownBy(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  return undefined;
}
