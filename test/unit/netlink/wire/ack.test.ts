/** ack.ts: verdicts with and without capping, extended attributes, the end of a dump, every truncation. */
import { describe, expect, test } from "vitest";
import { DecodeError } from "../../../../netlink/errors.ts";
import { decodeVerdict } from "../../../../netlink/wire/ack.ts";
import { decodeMessages, type NetlinkMessage } from "../../../../netlink/wire/message.ts";
import { type AckFields, ack, attribute, done, generic, message, text, uint } from "../encode.ts";

const request = generic({ type: 28, flags: 5, sequence: 9 }, 1, attribute(2, uint(8, 4096)));
const tlvs = [attribute(1, text("no good")), attribute(2, uint(4, 20)), attribute(5, uint(4, 7))];

function only(datagram: Uint8Array): NetlinkMessage {
  const [first] = decodeMessages(datagram);
  if (first === undefined) throw new Error("no message");
  return first;
}

const verdictOf = (fields: AckFields): unknown => decodeVerdict(only(ack(request, fields)));

describe("decodeVerdict on NLMSG_ERROR", () => {
  test("reads plain success and plain refusal, repeated request or not", () => {
    expect(verdictOf({})).toEqual({ errno: 0 });
    expect(verdictOf({ errno: 16 })).toEqual({ errno: 16 });
    expect(verdictOf({ errno: 16, capped: false })).toEqual({ errno: 16 });
  });

  const extended = { kernelMessage: "no good", attributeOffsetBytes: 20, missingType: 7 };

  test("finds the extended attributes after a capped header", () => {
    expect(verdictOf({ errno: 22, tlvs })).toEqual({ errno: 22, ...extended });
  });

  test("finds the extended attributes after the repeated request", () => {
    expect(verdictOf({ errno: 22, tlvs, capped: false })).toEqual({ errno: 22, ...extended });
  });

  test("reads the warning that comes with success", () => {
    expect(verdictOf({ tlvs: [attribute(1, text("deprecated"))] })).toEqual({
      errno: 0,
      kernelMessage: "deprecated",
    });
  });

  test("reads the nest in which an attribute is missing and skips attributes it does not know", () => {
    const fields = [attribute(3, Buffer.alloc(8)), attribute(6, uint(4, 24)), attribute(99)];
    expect(verdictOf({ errno: 22, tlvs: fields })).toEqual({ errno: 22, missingNestOffsetBytes: 24 });
  });

  test("does not take the repeated request for attributes when none are announced", () => {
    const bytes = ack(request, { errno: 22, capped: false });
    expect(decodeVerdict(only(bytes))).toEqual({ errno: 22 });
  });

  test("refuses a positive error code", () => {
    const bytes = message({ type: 2, sequence: 9 }, uint(4, 16), Buffer.alloc(16));
    expect(() => decodeVerdict(only(bytes))).toThrow(DecodeError);
  });

  test.each([0, 15, 4096, 0xffffffff])("refuses a repeated request that claims %i bytes", (length) => {
    const bytes = ack(request, { errno: 22, tlvs, capped: false });
    bytes.writeUInt32LE(length, 20);
    expect(() => decodeVerdict(only(bytes))).toThrow(DecodeError);
  });

  test.each([true, false])("at every truncation: an answer or a decode error (capped: %s)", (capped) => {
    const whole = only(ack(request, { errno: 22, tlvs, capped }));
    let decoded = 0;
    for (let cut = 0; cut < whole.payload.length; cut += 1) {
      const payload = whole.payload.subarray(0, cut);
      try {
        expect(decodeVerdict({ ...whole, payload })).toMatchObject({ errno: 22 });
        decoded += 1;
      } catch (error) {
        expect(error, `cut at ${cut}`).toBeInstanceOf(DecodeError);
      }
    }
    // Borders: before each of the three attributes, plus the padding byte of none (all are multiples of four).
    expect(decoded).toBe(3);
  });
});

describe("decodeVerdict on NLMSG_DONE", () => {
  test("reads success, an errno, and an empty body", () => {
    expect(decodeVerdict(only(done(request)))).toEqual({ errno: 0 });
    expect(decodeVerdict(only(done(request, 4)))).toEqual({ errno: 4 });
    expect(decodeVerdict(only(message({ type: 3, sequence: 9 })))).toEqual({ errno: 0 });
  });

  test("finds the extended attributes right after the error code", () => {
    const bytes = message({ type: 3, flags: 0x202, sequence: 9 }, uint(4, 0), attribute(1, text("partial")));
    expect(decodeVerdict(only(bytes))).toEqual({ errno: 0, kernelMessage: "partial" });
  });

  test("refuses an error code cut short", () => {
    expect(() => decodeVerdict(only(message({ type: 3, sequence: 9 }, Buffer.alloc(2))))).toThrow(
      DecodeError,
    );
  });
});
