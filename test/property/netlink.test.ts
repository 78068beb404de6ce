/**
 * netlink/ under random input: round trips, hostile bytes, hostile answers. The codec throws DecodeError or nothing.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Attribute,
  createFakeTransport,
  DecodeError,
  decodeAttributes,
  decodeFamily,
  decodeGenericMessage,
  decodeMessages,
  decodeStatus,
  decodeVerdict,
  encodeAttributes,
  encodeConnect,
  encodeGenericPayload,
  encodeMessage,
  findAttribute,
  formatMessage,
  NBD_SCHEMA,
  NbdNetlink,
  NetlinkError,
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
} from "../../netlink/index.ts";
import { attributeNameAt } from "../../netlink/wire/schema.ts";

const bytes = (maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength });

/** Bytes that look like attributes or messages often enough to get past the first check. */
const almostNetlink = fc
  .array(
    fc.oneof(
      fc.record({ kind: fc.constant("u16" as const), value: fc.integer({ min: 0, max: 64 }) }),
      fc.record({ kind: fc.constant("u32" as const), value: fc.integer({ min: 0, max: 128 }) }),
      fc.record({ kind: fc.constant("raw" as const), value: fc.integer({ min: 0, max: 255 }) }),
    ),
    { maxLength: 60 },
  )
  .map((parts) =>
    Buffer.concat(
      parts.map(({ kind, value }) => {
        const part = Buffer.alloc(kind === "u32" ? 4 : kind === "u16" ? 2 : 1);
        part.writeUIntLE(value, 0, part.length);
        return part;
      }),
    ),
  );
const hostile = fc.oneof(bytes(200), almostNetlink);

function onlyDecodeErrors(run: () => unknown): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error;
  }
}

interface Tree {
  readonly type: number;
  readonly payload: Uint8Array | readonly Tree[];
}

const { tree } = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.record({
    type: fc.integer({ min: 0, max: 0x3fff }),
    payload: fc.oneof({ depthSize: "small" }, bytes(20), fc.array(tie("tree"), { maxLength: 4 })),
  }),
}));

function encodeTree({ type, payload }: Tree): Attribute {
  return payload instanceof Uint8Array ? { type, payload } : nested(type, payload.map(encodeTree));
}

function expectTrees(encoded: Uint8Array, trees: readonly Tree[]): void {
  const decoded = decodeAttributes(encoded);
  expect(decoded).toHaveLength(trees.length);
  for (const [position, { type, payload }] of trees.entries()) {
    const attribute = decoded[position];
    expect(attribute?.type).toBe(type);
    expect(attribute?.nested).toBe(!(payload instanceof Uint8Array));
    if (payload instanceof Uint8Array)
      expect(Buffer.from(attribute?.payload ?? []).equals(payload)).toBe(true);
    else expectTrees(attribute?.payload ?? new Uint8Array(), payload);
  }
}

describe("round trips", () => {
  test("attributes, nested to any depth", () => {
    fc.assert(
      fc.property(fc.array(tree, { maxLength: 5 }), (trees) => {
        const encoded = encodeAttributes(trees.map(encodeTree));
        expect(encoded.length % 4).toBe(0);
        expectTrees(encoded, trees);
      }),
    );
  });

  test("integers and strings", () => {
    const values = fc.record({
      byte: fc.integer({ min: 0, max: 0xff }),
      short: fc.integer({ min: 0, max: 0xffff }),
      word: fc.nat({ max: 0xffff_ffff }),
      wide: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
      words: fc.string({ unit: "grapheme", maxLength: 40 }).filter((each) => !each.includes("\0")),
    });
    fc.assert(
      fc.property(values, ({ byte, short, word, wide, words }) => {
        const attributes = [u8(1, byte), u16(2, short), u32(3, word), u64(4, wide), string(5, words)];
        const [one, two, three, four, five] = decodeAttributes(encodeAttributes(attributes));
        expect(one && readU8(one)).toBe(byte);
        expect(two && readU16(two)).toBe(short);
        expect(three && readU32(three)).toBe(word);
        expect(four && readU64(four)).toBe(wide);
        expect(five && readString(five)).toBe(words);
      }),
    );
  });

  test("messages, several in a datagram", () => {
    const message = fc.record({
      type: fc.nat({ max: 0xffff }),
      flags: fc.nat({ max: 0xffff }),
      sequence: fc.nat({ max: 0xffff_ffff }),
      portId: fc.nat({ max: 0xffff_ffff }),
      payload: bytes(50),
    });
    fc.assert(
      fc.property(fc.array(message, { maxLength: 6 }), (messages) => {
        const decoded = decodeMessages(Buffer.concat(messages.map(encodeMessage)));
        const plain = decoded.map((each) => ({ ...each, payload: Uint8Array.from(each.payload) }));
        expect(plain).toEqual(messages);
      }),
    );
  });

  test("CONNECT: the bytes are those of the options", () => {
    const options = fc.record({
      sizeBytes: fc.maxSafeNat(),
      blockSizeBytes: fc.integer({ min: 9, max: 16 }).map((bits) => 2 ** bits),
      timeoutSeconds: fc.nat({ max: 2_147_483 }),
      deadConnectionTimeoutSeconds: fc.nat({ max: 0xffff_ffff }),
      serverFlags: fc.nat({ max: 0xffff_ffff }),
      clientFlags: fc.nat({ max: 0xffff_ffff }),
      sockets: fc.array(fc.nat({ max: 0x7fff_ffff }), { minLength: 1, maxLength: 20 }),
      backendIdentifier: fc.stringMatching(/^[\w-]{1,255}$/),
    });
    fc.assert(
      fc.property(options, (asked) => {
        const decoded = decodeAttributes(encodeAttributes(encodeConnect(asked)));
        const wide = (type: number): number | undefined => {
          const attribute = findAttribute(decoded, type);
          return attribute === undefined ? undefined : Number(readU64(attribute));
        };
        const sockets = findAttribute(decoded, 7);
        const identifier = findAttribute(decoded, 10);
        expect({
          sizeBytes: wide(2),
          blockSizeBytes: wide(3),
          timeoutSeconds: wide(4),
          serverFlags: wide(5),
          clientFlags: wide(6),
          deadConnectionTimeoutSeconds: wide(8),
          sockets: sockets && readNested(sockets).map((item) => readNested(item).map(readU32)[0]),
          backendIdentifier: identifier && readString(identifier),
        }).toEqual(asked);
        expect(findAttribute(decoded, 1)).toBeUndefined();
      }),
    );
  });
});

describe("hostile bytes", () => {
  test("every decoder ends, with a result or a DecodeError", () => {
    fc.assert(
      fc.property(hostile, fc.nat({ max: 0xffff }), (data, flags) => {
        onlyDecodeErrors(() => decodeAttributes(data));
        onlyDecodeErrors(() => decodeMessages(data));
        onlyDecodeErrors(() => decodeGenericMessage(data));
        onlyDecodeErrors(() => attributeNameAt(data, data.length >> 1, NBD_SCHEMA.attributes));
        for (const type of [2, 3]) {
          const message = { type, flags, sequence: 1, portId: 1, payload: data };
          onlyDecodeErrors(() => decodeVerdict(message));
        }
        onlyDecodeErrors(() => decodeFamily(decodeAttributes(data)));
        onlyDecodeErrors(() =>
          decodeStatus([{ command: 5, version: 1, attributes: decodeAttributes(data) }]),
        );
      }),
      { numRuns: 2000 },
    );
  });

  test("the trace prints anything and throws nothing", () => {
    fc.assert(
      fc.property(hostile, fc.nat({ max: 40 }), fc.nat({ max: 0xffff }), (payload, type, flags) => {
        const line = formatMessage({ type, flags, sequence: 1, portId: 1, payload }, NBD_SCHEMA);
        expect(line.length).toBeGreaterThan(0);
        expect(line).not.toContain("\n");
      }),
      { numRuns: 2000 },
    );
  });

  test("decoded attributes never reach outside the bytes that were given", () => {
    fc.assert(
      fc.property(hostile, bytes(8), (data, before) => {
        const whole = Buffer.concat([before, data, Buffer.alloc(64, 0xee)]);
        const view = whole.subarray(before.length, before.length + data.length);
        onlyDecodeErrors(() => {
          for (const { payload } of decodeAttributes(view)) {
            expect(payload.byteOffset).toBeGreaterThanOrEqual(view.byteOffset);
            expect(payload.byteOffset + payload.length).toBeLessThanOrEqual(view.byteOffset + view.length);
          }
        });
      }),
    );
  });

  test("a client whose kernel sends malformed bytes always fails with a NetlinkError", async () => {
    const datagrams = fc.array(
      fc.record({ payload: hostile, type: fc.nat({ max: 30 }), flags: fc.nat({ max: 0x3ff }) }),
      {
        maxLength: 3,
      },
    );
    await fc.assert(
      fc.asyncProperty(datagrams, fc.boolean(), async (answers, isRaw) => {
        const transport = createFakeTransport((request, kernel) => {
          const sequence = Buffer.from(request).readUInt32LE(8);
          for (const { payload, type, flags } of answers) {
            const fields = { type, flags, sequence, portId: transport.portId, payload };
            kernel.deliver(isRaw ? payload : encodeMessage(fields));
          }
          kernel.failReceive(1);
        });
        const nbd = new NbdNetlink({ openTransport: () => transport });
        await expect(nbd.status(1)).rejects.toBeInstanceOf(NetlinkError);
        await nbd.close();
        expect(transport.watchCount).toBe(0);
      }),
      { numRuns: 300 },
    );
  });

  test("a generic payload survives its header", () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 255 }),
        fc.nat({ max: 255 }),
        fc.array(tree, { maxLength: 3 }),
        (command, version, trees) => {
          const body = encodeAttributes(trees.map(encodeTree));
          const decoded = decodeGenericMessage(encodeGenericPayload({ command, version, body }));
          expect(decoded).toMatchObject({ command, version });
          expect(decoded.attributes).toHaveLength(trees.length);
        },
      ),
    );
  });
});
