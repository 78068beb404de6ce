/**
 * Property tests of the request framer: any stream in any pieces yields the same requests, and no bytes break it.
 */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NbdProtocolError } from "../../src/nbd/protocol-error.ts";
import { checkRequest, payloadBytes } from "../../src/nbd/request-check.ts";
import { RequestFramer } from "../../src/nbd/request-framer.ts";
import {
  decodeRequestInto,
  encodeRequestInto,
  NBD_CMD_WRITE,
  type NbdRequest,
  newRequest,
  OFFSET_TOO_LARGE,
  REQUEST_BYTES,
} from "../../src/nbd/wire.ts";
import { feed, streamOf } from "../helpers/nbd/nbd-stream.ts";

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const anyRequest: fc.Arbitrary<NbdRequest> = fc.record({
  flags: u16,
  type: fc.oneof({ weight: 3, arbitrary: fc.integer({ min: 0, max: 8 }) }, u16),
  cookieHigh: u32,
  cookieLow: u32,
  offsetBytes: fc.oneof(fc.maxSafeNat(), fc.constant(OFFSET_TOO_LARGE)),
  lengthBytes: u32,
});
/** As a stream needs them: payloads of a size that a test can hold. */
const streamRequest = anyRequest.map((request) => ({
  ...request,
  lengthBytes: request.type === NBD_CMD_WRITE ? request.lengthBytes % 300 : request.lengthBytes,
}));

describe("requests", () => {
  it("are decoded as they were encoded, at any place", () => {
    fc.assert(
      fc.property(anyRequest, fc.nat(100), (request, at) => {
        const bytes = new Uint8Array(at + REQUEST_BYTES);
        encodeRequestInto(bytes, at, request);
        const decoded = newRequest();
        expect(decodeRequestInto(decoded, bytes, at)).toBe(true);
        expect(decoded).toEqual(request);
      }),
    );
  });

  it("pass the check only when their range lies inside a read-only export", () => {
    fc.assert(
      fc.property(anyRequest, fc.nat(1 << 30), (request, sizeBytes) => {
        fc.pre(request.type !== 2);
        if (checkRequest(request, sizeBytes, true) !== 0) return;
        expect(request.type).toBe(0);
        expect(request.offsetBytes).toBeGreaterThanOrEqual(0);
        expect(BigInt(request.offsetBytes) + BigInt(request.lengthBytes)).toBeLessThanOrEqual(
          BigInt(sizeBytes),
        );
        expect(payloadBytes(request)).toBe(0);
      }),
    );
  });
});

describe("RequestFramer", () => {
  it("yields what was sent, whatever the pieces and the inbox", () => {
    fc.assert(
      fc.property(
        fc.array(streamRequest, { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 60 }),
        fc.integer({ min: REQUEST_BYTES, max: 500 }),
        (requests, sizes, inboxBytes) => {
          const stream = streamOf(requests);
          const pieces: Uint8Array[] = [];
          for (let at = 0, turn = 0; at < stream.length; turn++) {
            const size = sizes[turn % sizes.length] ?? 1;
            pieces.push(stream.subarray(at, at + size));
            at += size;
          }
          const framer = new RequestFramer(new Uint8Array(inboxBytes));
          expect(feed(framer, pieces)).toEqual(requests);
          expect([framer.bufferedBytes, framer.skippingBytes]).toEqual([0, 0]);
        },
      ),
    );
  });

  it("takes any bytes for requests or for a protocol error, and for nothing else", () => {
    const noise = fc.uint8Array({ maxLength: 300 });
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            noise,
            streamRequest.map((request) => streamOf([request])),
          ),
          { maxLength: 8 },
        ),
        (pieces) => {
          const framer = new RequestFramer(new Uint8Array(64));
          try {
            feed(framer, pieces);
          } catch (error) {
            expect(error).toBeInstanceOf(NbdProtocolError);
            expect(() => framer.next(newRequest())).toThrow(NbdProtocolError);
          }
          expect(framer.bufferedBytes).toBeLessThanOrEqual(64);
        },
      ),
    );
  });
});
