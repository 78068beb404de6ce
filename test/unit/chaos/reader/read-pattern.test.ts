/** Which ranges the reader asks for. That they always fit the device is a property: test/property/chaos.test.ts. */
import { expect, test } from "vitest";
import { ReadPattern } from "../../../../src/chaos/reader/read-pattern.ts";

const MIB = 1 << 20;

test("large slots share one pass over the device, in order, and begin again at its end", () => {
  const pattern = new ReadPattern(2 * MIB + 8192, 4096, 2, () => 0);
  const ranges = Array.from({ length: 5 }, (_, at) => pattern.next(at % 2));
  expect(ranges).toEqual([
    { offsetBytes: 0, lengthBytes: MIB },
    { offsetBytes: MIB, lengthBytes: MIB },
    { offsetBytes: 2 * MIB, lengthBytes: 8192 },
    { offsetBytes: 0, lengthBytes: MIB },
    { offsetBytes: MIB, lengthBytes: MIB },
  ]);
});

test("the other slots read small, anywhere", () => {
  const random = [0, 0.5, 0.999_999];
  const pattern = new ReadPattern(64 * 4096, 512, 1, () => random.shift() ?? 0);
  expect([pattern.next(1), pattern.next(2), pattern.next(3)]).toEqual([
    { offsetBytes: 0, lengthBytes: 4096 },
    { offsetBytes: 32 * 4096, lengthBytes: 4096 },
    { offsetBytes: 63 * 4096, lengthBytes: 4096 },
  ]);
});

test("a device that ends within a page is read to its last block", () => {
  const pattern = new ReadPattern(4096 + 512, 512, 0, () => 0.9);
  expect(pattern.next(0)).toEqual({ offsetBytes: 4096, lengthBytes: 512 });
});

test("large blocks are never split", () => {
  const pattern = new ReadPattern(4 * 65_536, 65_536, 0, () => 0.3);
  expect(pattern.next(0)).toEqual({ offsetBytes: 65_536, lengthBytes: 65_536 });
});
