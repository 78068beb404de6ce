/** message.ts: headers against bytes written by hand, truncation at every byte, false lengths. */
import { describe, expect, test } from "vitest";
import { DecodeError } from "../../../../netlink/errors.ts";
import {
  decodeGenericPayload,
  decodeMessages,
  encodeGenericPayload,
  encodeMessage,
} from "../../../../netlink/wire/message.ts";
import { generic, message, uint } from "../encode.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

describe("encodeMessage", () => {
  test("writes the header, counts without padding and pads", () => {
    const payload = Uint8Array.of(1, 2, 3);
    const bytes = encodeMessage({ type: 28, flags: 5, sequence: 0x01020304, portId: 0xfffffffe, payload });
    expect(hex(bytes)).toBe("13000000" + "1c00" + "0500" + "04030201" + "feffffff" + "01020300");
  });
});

describe("decodeMessages", () => {
  const first = generic({ type: 28, flags: 2, sequence: 9 }, 5, uint(4, 77));
  const second = message({ type: 3, sequence: 9 }, Buffer.from([1, 2, 3]));
  const whole = Buffer.concat([first, second]);

  test("splits a datagram and keeps the fields", () => {
    const [one, two, ...rest] = decodeMessages(whole);
    expect(rest).toEqual([]);
    expect(one).toMatchObject({ type: 28, flags: 2, sequence: 9, portId: 4711 });
    expect(hex(one?.payload ?? new Uint8Array())).toBe("05010000" + "4d000000");
    expect(hex(two?.payload ?? new Uint8Array())).toBe("010203");
  });

  test("at every truncation: a decode error unless cut between messages or in the last padding", () => {
    const ends = new Map([
      [0, 0],
      [first.length, 1],
      [whole.length - 1, 2],
      [whole.length, 2],
    ]);
    for (let cut = 0; cut <= whole.length; cut += 1) {
      const expected = ends.get(cut);
      const decode = (): number => decodeMessages(whole.subarray(0, cut)).length;
      if (expected === undefined) expect(decode, `cut at ${cut}`).toThrow(DecodeError);
      else expect(decode(), `cut at ${cut}`).toBe(expected);
    }
  });

  test.each([0, 1, 15])("refuses a length of %i, which would never advance", (length) => {
    const liar = Buffer.from(second);
    liar.writeUInt32LE(length);
    const bytes = Buffer.concat([first, liar]);
    expect(() => decodeMessages(bytes)).toThrow(expect.objectContaining({ offsetBytes: first.length }));
  });

  test.each([21, 0x7fffffff, 0xffffffff])("refuses a length of %i past the end", (length) => {
    const liar = Buffer.from(second);
    liar.writeUInt32LE(length);
    expect(() => decodeMessages(liar)).toThrow(DecodeError);
  });
});

describe("generic payloads", () => {
  test("put command and version before the body and take them off again", () => {
    const bytes = encodeGenericPayload({ command: 1, version: 2, body: Uint8Array.of(9, 8) });
    expect(hex(bytes)).toBe("010200000908");
    const decoded = decodeGenericPayload(bytes);
    expect(decoded).toMatchObject({ command: 1, version: 2 });
    expect(hex(decoded.body)).toBe("0908");
  });

  test.each([0, 1, 2, 3])("a payload of %i bytes is cut short", (length) => {
    expect(() => decodeGenericPayload(new Uint8Array(length))).toThrow(DecodeError);
  });
});
