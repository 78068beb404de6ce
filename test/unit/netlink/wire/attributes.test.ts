/** attributes.ts: encoding against bytes written by hand, decoding at every truncation, hostile lengths. */
import { describe, expect, test } from "vitest";
import { DecodeError } from "../../../../netlink/errors.ts";
import {
  align4,
  type DecodedAttribute,
  decodeAttributes,
  encodeAttributes,
  findAttribute,
  nested,
  readNested,
  readString,
  readU8,
  readU16,
  readU32,
  readU64,
  string,
  u8,
  u16,
  u32,
  u64,
} from "../../../../netlink/wire/attributes.ts";
import { attribute, text, uint } from "../encode.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const one = (bytes: Uint8Array): DecodedAttribute => {
  const [first] = decodeAttributes(bytes);
  if (first === undefined) throw new Error("no attribute");
  return first;
};

describe("encodeAttributes", () => {
  test("writes length, type, payload and padding in the machine's order", () => {
    expect(hex(encodeAttributes([u8(2, 0xab)]))).toBe("05000200ab000000");
    expect(hex(encodeAttributes([u16(1, 0x1234)]))).toBe("0600010034120000");
    expect(hex(encodeAttributes([u32(1, 0xfffffffe)]))).toBe("08000100feffffff");
    expect(hex(encodeAttributes([u64(2, 0x1_0000_0000)]))).toBe("0c0002000000000001000000");
    expect(hex(encodeAttributes([string(10, "id")]))).toBe("07000a0069640000");
  });

  test("nests, flags the nest, and starts the next attribute at a multiple of four", () => {
    const bytes = encodeAttributes([string(2, "nbd1"), nested(7, [nested(1, [u32(1, 5)])])]);
    expect(hex(bytes)).toBe("090002006e62643100000000" + "10000780" + "0c000180" + "0800010005000000");
  });

  test("accepts the longest payload and refuses one byte more", () => {
    expect(encodeAttributes([{ type: 1, payload: new Uint8Array(65_531) }])).toHaveLength(65_536);
    const tooLong = [{ type: 1, payload: new Uint8Array(65_532) }];
    expect(() => encodeAttributes(tooLong)).toThrow(RangeError);
    expect(() =>
      nested(
        7,
        Array.from({ length: 5_462 }, () => nested(1, [u32(1, 3)])),
      ),
    ).not.toThrow();
    expect(() =>
      encodeAttributes([
        nested(
          7,
          Array.from({ length: 5_462 }, () => nested(1, [u32(1, 3)])),
        ),
      ]),
    ).toThrow(RangeError);
  });

  test("refuses a type beyond 16 bits", () => {
    expect(() => encodeAttributes([{ type: 0x10000, payload: new Uint8Array() }])).toThrow(RangeError);
  });
});

describe("integers", () => {
  test.each([
    ["u8", u8, 0xff],
    ["u16", u16, 0xffff],
    ["u32", u32, 0xffff_ffff],
    ["u64", u64, Number.MAX_SAFE_INTEGER],
  ] as const)("%s takes its whole range and nothing else", (_name, make, maximum) => {
    expect(() => make(1, 0)).not.toThrow();
    expect(() => make(1, maximum)).not.toThrow();
    expect(() => make(1, -1)).toThrow(RangeError);
    expect(() => make(1, maximum + 1)).toThrow(RangeError);
    expect(() => make(1, 1.5)).toThrow(TypeError);
    expect(() => make(1, Number.NaN)).toThrow(TypeError);
  });

  test("u64 takes bigints up to 2^64-1", () => {
    expect(readU64(one(encodeAttributes([u64(1, 0xffff_ffff_ffff_ffffn)])))).toBe(0xffff_ffff_ffff_ffffn);
    expect(() => u64(1, 0x1_0000_0000_0000_0000n)).toThrow(RangeError);
    expect(() => u64(1, -1n)).toThrow(RangeError);
  });

  test("read the output of another encoder", () => {
    expect(readU8(one(attribute(1, uint(1, 0xfe))))).toBe(0xfe);
    expect(readU16(one(attribute(1, uint(2, 0xfedc))))).toBe(0xfedc);
    expect(readU32(one(attribute(1, uint(4, 0xfedcba98))))).toBe(0xfedcba98);
    expect(readU64(one(attribute(1, uint(8, 2 ** 40))))).toBe(2n ** 40n);
  });

  test("honour NLA_F_NET_BYTEORDER", () => {
    const decoded = one(attribute(1 | 0x4000, Buffer.from("0102030405060708", "hex")));
    expect(decoded).toMatchObject({ type: 1, networkByteOrder: true, nested: false });
    expect(readU64(decoded)).toBe(0x0102030405060708n);
    expect(readU32(one(attribute(1 | 0x4000, Buffer.from("01020304", "hex"))))).toBe(0x01020304);
    expect(readU16(one(attribute(1 | 0x4000, Buffer.from("0102", "hex"))))).toBe(0x0102);
  });

  test.each([readU8, readU16, readU32, readU64])("%o refuses every other length", (read) => {
    const accepted = [];
    for (let size = 0; size <= 9; size += 1) {
      try {
        read(one(attribute(3, Buffer.alloc(size))));
        accepted.push(size);
      } catch (error) {
        expect(error).toBeInstanceOf(DecodeError);
      }
    }
    expect(accepted).toHaveLength(1);
  });
});

describe("strings", () => {
  test("end at the first NUL or at the end", () => {
    expect(readString(one(attribute(1, text("nbd"))))).toBe("nbd");
    expect(readString(one(attribute(1, Buffer.from("nbd"))))).toBe("nbd");
    expect(readString(one(attribute(1, Buffer.from("nb\0d"))))).toBe("nb");
    expect(readString(one(attribute(1)))).toBe("");
  });

  test("carry UTF-8, and decode bytes that are not", () => {
    expect(readString(one(encodeAttributes([string(1, "Gerät «1»")])))).toBe("Gerät «1»");
    expect(readString(one(attribute(1, Buffer.from([0xff, 0x41]))))).toBe("\ufffdA");
  });

  test("refuse a NUL inside", () => {
    expect(() => string(1, "a\0b")).toThrow(RangeError);
  });
});

describe("decodeAttributes", () => {
  const whole = Buffer.concat([
    attribute(1, uint(4, 7)),
    attribute(2, text("ab")),
    attribute(7 | 0x8000, attribute(1, uint(4, 5))),
  ]);
  // Attributes end at 8, 15 (padded to 16) and 28.
  const ends = new Map([
    [0, 0],
    [8, 1],
    [15, 2],
    [16, 2],
    [28, 3],
  ]);

  test("yields type, flags, offset and payload", () => {
    const decoded = decodeAttributes(whole);
    expect(decoded.map(({ type, nested: isNested, offsetBytes }) => [type, isNested, offsetBytes])).toEqual([
      [1, false, 0],
      [2, false, 8],
      [7, true, 16],
    ]);
    expect(decoded.map(({ payload }) => payload.length)).toEqual([4, 3, 8]);
    const [third] = decoded.slice(2);
    expect(third === undefined ? [] : readNested(third).map(readU32)).toEqual([5]);
  });

  test("at every truncation: fewer attributes at a border, a decode error elsewhere", () => {
    for (let cut = 0; cut <= whole.length; cut += 1) {
      const expected = ends.get(cut);
      const decode = (): number => decodeAttributes(whole.subarray(0, cut)).length;
      if (expected === undefined) expect(decode, `cut at ${cut}`).toThrow(DecodeError);
      else expect(decode(), `cut at ${cut}`).toBe(expected);
    }
  });

  test.each([0, 1, 2, 3])("refuses a length of %i, which would never advance", (length) => {
    const bytes = Buffer.concat([attribute(1, uint(4, 7)), uint(2, length), uint(2, 1)]);
    expect(() => decodeAttributes(bytes)).toThrow(expect.objectContaining({ offsetBytes: 8 }));
  });

  test("refuses a length past the end", () => {
    const bytes = Buffer.concat([uint(2, 9), uint(2, 1), uint(4, 0)]);
    expect(() => decodeAttributes(bytes)).toThrow(DecodeError);
  });

  test("works on views that do not start at the buffer's beginning", () => {
    const shifted = Buffer.concat([Buffer.alloc(3), whole]).subarray(3);
    expect(decodeAttributes(shifted)).toHaveLength(3);
  });
});

test("findAttribute takes the last of several, as the kernel does", () => {
  const decoded = decodeAttributes(Buffer.concat([attribute(1, uint(4, 1)), attribute(1, uint(4, 2))]));
  expect(findAttribute(decoded, 1)?.offsetBytes).toBe(8);
  expect(findAttribute(decoded, 2)).toBeUndefined();
});

test("align4 rounds up", () => {
  expect([0, 1, 3, 4, 5, 65_535].map(align4)).toEqual([0, 4, 4, 4, 8, 65_536]);
});
