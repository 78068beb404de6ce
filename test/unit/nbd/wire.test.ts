/**
 * The NBD wire codec against bytes written out by hand, so that encoder and decoder cannot share a mistake.
 */

import { describe, expect, it } from "vitest";
import {
  commandName,
  decodeReplyInto,
  decodeRequestInto,
  encodeReplyInto,
  encodeRequestInto,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_EIO,
  nbdErrorName,
  newRequest,
  newSimpleReply,
  OFFSET_TOO_LARGE,
  READ_ONLY_EXPORT_FLAGS,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
} from "../../../src/nbd/wire.ts";

const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(" ", ""), "hex"));

describe("decodeRequestInto", () => {
  it("reads every field from its place, big-endian", () => {
    const request = newRequest();
    const bytes = bytesOf("25609513 0003 0001 0102030405060708 0000001122334455 89abcdef");
    expect(decodeRequestInto(request, bytes, 0)).toBe(true);
    expect(request).toEqual({
      flags: 3,
      type: NBD_CMD_WRITE,
      cookieHigh: 0x01020304,
      cookieLow: 0x05060708,
      offsetBytes: 0x1122334455,
      lengthBytes: 0x89abcdef,
    });
  });

  it("reads words with the top bit set as positive numbers", () => {
    const request = newRequest();
    decodeRequestInto(request, bytesOf("25609513 ffff ffff ffffffffffffffff 00000000ffffffff ffffffff"), 0);
    expect(request).toEqual({
      flags: 0xffff,
      type: 0xffff,
      cookieHigh: 0xffffffff,
      cookieLow: 0xffffffff,
      offsetBytes: 0xffffffff,
      lengthBytes: 0xffffffff,
    });
  });

  it("works at any position and leaves its surroundings alone", () => {
    const bytes = new Uint8Array(REQUEST_BYTES + 5).fill(0xee);
    bytes.set(bytesOf("25609513 0000 0000 0000000000000007 0000000000001000 00000200"), 3);
    const before = bytes.slice();
    const request = newRequest();
    expect(decodeRequestInto(request, bytes, 3)).toBe(true);
    expect(request).toEqual({
      flags: 0,
      type: 0,
      cookieHigh: 0,
      cookieLow: 7,
      offsetBytes: 4096,
      lengthBytes: 512,
    });
    expect(bytes).toEqual(before);
  });

  it("says false to a wrong magic in each of its bytes and leaves the record alone", () => {
    for (let at = 0; at < 4; at++) {
      const bytes = bytesOf("25609513 0000 0001 0000000000000007 0000000000001000 00000200");
      bytes[at] = (bytes[at] ?? 0) ^ 0x80;
      const request = newRequest();
      expect(decodeRequestInto(request, bytes, 0)).toBe(false);
      expect(request).toEqual(newRequest());
    }
  });

  it("keeps the largest safe offset and marks everything above it", () => {
    const offsets: [string, number][] = [
      ["001fffffffffffff", Number.MAX_SAFE_INTEGER],
      ["0020000000000000", OFFSET_TOO_LARGE],
      ["8000000000000000", OFFSET_TOO_LARGE],
      ["ffffffffffffffff", OFFSET_TOO_LARGE],
    ];
    for (const [hex, expected] of offsets) {
      const request = newRequest();
      decodeRequestInto(request, bytesOf(`25609513 0000 0000 0000000000000000 ${hex} 00000001`), 0);
      expect(request.offsetBytes, hex).toBe(expected);
    }
  });
});

describe("encodeRequestInto", () => {
  it("writes exactly the bytes of the protocol", () => {
    const bytes = new Uint8Array(REQUEST_BYTES + 2).fill(0xee);
    encodeRequestInto(bytes, 1, {
      flags: 0x8001,
      type: NBD_CMD_READ,
      cookieHigh: 0xfeedbeef,
      cookieLow: 0x80000001,
      offsetBytes: 0x1fffff_fffffe00,
      lengthBytes: 0x02000000,
    });
    expect(bytes).toEqual(bytesOf("ee 25609513 8001 0000 feedbeef80000001 001ffffffffffe00 02000000 ee"));
  });

  it("sends an offset that is too large as one that is too large", () => {
    const bytes = new Uint8Array(REQUEST_BYTES);
    encodeRequestInto(bytes, 0, { ...newRequest(), offsetBytes: OFFSET_TOO_LARGE });
    const request = newRequest();
    expect(decodeRequestInto(request, bytes, 0)).toBe(true);
    expect(request.offsetBytes).toBe(OFFSET_TOO_LARGE);
  });
});

describe("simple replies", () => {
  it("are written as magic, error and cookie", () => {
    const bytes = new Uint8Array(SIMPLE_REPLY_BYTES + 2).fill(0xee);
    encodeReplyInto(bytes, 1, NBD_EIO, 0xfeedbeef, 0x80000001);
    expect(bytes).toEqual(bytesOf("ee 67446698 00000005 feedbeef80000001 ee"));
  });

  it("are read back, and a wrong magic leaves the record alone", () => {
    const reply = newSimpleReply();
    expect(reply).toEqual({ errno: 0, cookieHigh: 0, cookieLow: 0 });
    const bytes = bytesOf("67446698 0000006c ffffffff00000002");
    expect(decodeReplyInto(reply, bytes, 0)).toBe(true);
    expect(reply).toEqual({ errno: 108, cookieHigh: 0xffffffff, cookieLow: 2 });
    bytes[3] = 0x99;
    expect(decodeReplyInto(reply, bytes, 0)).toBe(false);
    expect(reply.errno).toBe(108);
  });
});

describe("names", () => {
  it("are the protocol's, with a number for what is unknown", () => {
    expect([0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(commandName)).toEqual([
      ..."READ WRITE DISC FLUSH TRIM CACHE WRITE_ZEROES BLOCK_STATUS RESIZE".split(" "),
      "command 9",
    ]);
    expect([1, 5, 12, 22, 28, 75, 95, 108, 7].map(nbdErrorName)).toEqual([
      ..."EPERM EIO ENOMEM EINVAL ENOSPC EOVERFLOW ENOTSUP ESHUTDOWN".split(" "),
      "error 7",
    ]);
  });

  it("READ_ONLY_EXPORT_FLAGS is what the kernel wants to see for several links on a read-only image", () => {
    expect(READ_ONLY_EXPORT_FLAGS).toBe(0x103);
  });
});
