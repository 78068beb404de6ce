/**
 * Every verdict on a request: which NBD error number it earns, and how much payload follows it.
 */

import { describe, expect, it } from "vitest";
import {
  checkRequest,
  MAX_REQUEST_BYTES,
  PAYLOAD_TOO_LONG,
  payloadBytes,
} from "../../../src/nbd/request-check.ts";
import { type NbdRequest, newRequest, OFFSET_TOO_LARGE } from "../../../src/nbd/wire.ts";

const MiB = 1 << 20;
const sizeBytes = 100 * MiB;
const types = { READ: 0, WRITE: 1, DISC: 2, FLUSH: 3, TRIM: 4, CACHE: 5, WRITE_ZEROES: 6, BLOCK_STATUS: 7 };

const request = (type: number, offsetBytes: number, lengthBytes: number, flags = 0): NbdRequest => ({
  ...newRequest(),
  type,
  offsetBytes,
  lengthBytes,
  flags,
});

describe("checkRequest on a read-only export", () => {
  it.each([
    ["the first bytes", 0, 1, 0],
    ["the last byte", sizeBytes - 1, 1, 0],
    ["the longest range", 0, MAX_REQUEST_BYTES, 0],
    ["an unaligned range", 511, 3, 0],
    ["nothing", 0, 0, 22],
    ["nothing at the end", sizeBytes, 0, 22],
    ["one byte more than the longest range", 0, MAX_REQUEST_BYTES + 1, 22],
    ["the longest number", 0, 0xffffffff, 22],
    ["across the end", sizeBytes - 1, 2, 22],
    ["at the end", sizeBytes, 1, 22],
    ["far past the end", Number.MAX_SAFE_INTEGER, MAX_REQUEST_BYTES, 22],
    ["an offset above 2^53", OFFSET_TOO_LARGE, 1, 22],
  ])("READ of %s", (_, offsetBytes, lengthBytes, errno) => {
    expect(checkRequest(request(types.READ, offsetBytes, lengthBytes), sizeBytes, true)).toBe(errno);
  });

  it("refuses any flag on READ: none was offered", () => {
    for (let bit = 0; bit < 16; bit++) {
      expect(checkRequest(request(types.READ, 0, 512, 1 << bit), sizeBytes, true), `bit ${bit}`).toBe(22);
    }
  });

  it("refuses what writes with EPERM, whatever its range and flags", () => {
    for (const type of [types.WRITE, types.TRIM, types.WRITE_ZEROES]) {
      for (const [offsetBytes, lengthBytes, flags] of [
        [0, 512, 0],
        [0, 0, 0],
        [sizeBytes, 512, 0xffff],
        [OFFSET_TOO_LARGE, 0xffffffff, 0],
      ] as const) {
        expect(checkRequest(request(type, offsetBytes, lengthBytes, flags), sizeBytes, true)).toBe(1);
      }
    }
  });

  it("refuses what it does not know or did not offer with EINVAL", () => {
    for (const type of [types.FLUSH, types.CACHE, types.BLOCK_STATUS, 8, 9, 0xffff]) {
      expect(checkRequest(request(type, 0, 0), sizeBytes, true), `type ${type}`).toBe(22);
    }
  });

  it("lets DISC pass, even a sloppy one", () => {
    expect(checkRequest(request(types.DISC, 0, 0), sizeBytes, true)).toBe(0);
    expect(checkRequest(request(types.DISC, 7, 7, 1), sizeBytes, true)).toBe(0);
  });

  it("has nothing to read on an empty export", () => {
    expect(checkRequest(request(types.READ, 0, 1), 0, true)).toBe(22);
  });
});

describe("checkRequest on a writable export", () => {
  it.each([
    ["WRITE inside", types.WRITE, 0, 512, 0, 0],
    ["WRITE with FUA", types.WRITE, 0, 512, 1, 0],
    ["WRITE with NO_HOLE", types.WRITE, 0, 512, 2, 22],
    ["WRITE of nothing", types.WRITE, 0, 0, 0, 22],
    ["WRITE across the end", types.WRITE, sizeBytes - 1, 2, 0, 28],
    ["WRITE_ZEROES with NO_HOLE", types.WRITE_ZEROES, 0, 512, 2, 0],
    ["WRITE_ZEROES with FAST_ZERO", types.WRITE_ZEROES, 0, 512, 16, 22],
    ["WRITE_ZEROES across the end", types.WRITE_ZEROES, sizeBytes, 1, 0, 28],
    ["TRIM inside", types.TRIM, 0, 50 * MiB, 0, 0],
    ["TRIM across the end", types.TRIM, sizeBytes, 1, 0, 22],
    ["FLUSH", types.FLUSH, 0, 0, 0, 0],
    ["FLUSH of a range", types.FLUSH, 0, 512, 0, 22],
    ["READ past the end", types.READ, sizeBytes, 1, 0, 22],
  ])("%s", (_, type, offsetBytes, lengthBytes, flags, errno) => {
    expect(checkRequest(request(type, offsetBytes, lengthBytes, flags), sizeBytes, false)).toBe(errno);
  });
});

describe("payloadBytes", () => {
  it("is WRITE's length up to the longest request, and then too long to swallow", () => {
    expect(payloadBytes(request(types.WRITE, 0, 0))).toBe(0);
    expect(payloadBytes(request(types.WRITE, 0, MAX_REQUEST_BYTES))).toBe(MAX_REQUEST_BYTES);
    expect(payloadBytes(request(types.WRITE, 0, MAX_REQUEST_BYTES + 1))).toBe(PAYLOAD_TOO_LONG);
    expect(payloadBytes(request(types.WRITE, 0, 0xffffffff))).toBe(PAYLOAD_TOO_LONG);
  });

  it("is 0 for everything else, however long it claims to be", () => {
    for (const type of [types.READ, types.DISC, types.FLUSH, types.TRIM, types.WRITE_ZEROES, 77]) {
      expect(payloadBytes(request(type, 0, 0xffffffff))).toBe(0);
    }
  });
});
