/** What a read is compared with: the image, zeros behind it, and nothing else. */
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ImageReference } from "../../../../src/chaos/reader/image-reference.ts";

const IMAGE = Uint8Array.from({ length: 5000 }, (_, at) => (at * 31) % 256);
let directory: string;
let fd: number;
let reference: ImageReference;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "reference-"));
  writeFileSync(join(directory, "image"), IMAGE);
  fd = openSync(join(directory, "image"), "r");
  reference = new ImageReference(fd, IMAGE.length, 8192);
});
afterEach(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

/** What the device must give at an offset. */
function wanted(offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes.set(IMAGE.subarray(offset, offset + length));
  return bytes;
}

test.each([
  [0, 4096],
  [4096, 4096],
  [512, 512],
  [0, 8192],
  [8192, 4096],
])("what is in the image at %d, %d bytes long, with zeros behind its end, is right", (offset, length) => {
  expect(reference.compare(offset, wanted(offset, length))).toBeUndefined();
});

test("one wrong byte is found, with its place on the device and both values", () => {
  const got = wanted(4096, 4096);
  got[100] = (got[100] ?? 0) ^ 0x40;
  expect(reference.compare(4096, got)).toEqual({
    offsetBytes: 4196,
    wrongBytes: 1,
    wanted: IMAGE[4196],
    got: (IMAGE[4196] ?? 0) ^ 0x40,
  });
});

test("a byte behind the image that is not zero is wrong", () => {
  const got = wanted(4096, 4096);
  got[4095] = 1;
  expect(reference.compare(4096, got)).toEqual({ offsetBytes: 8191, wrongBytes: 1, wanted: 0, got: 1 });
});

test("zeros instead of data, and data from elsewhere, are counted", () => {
  const differing = IMAGE.subarray(0, 4096).filter((byte) => byte !== 0).length;
  expect(reference.compare(0, new Uint8Array(4096))).toMatchObject({ offsetBytes: 1, wrongBytes: differing });
  expect(reference.compare(0, wanted(1, 4096))?.wrongBytes).toBeGreaterThan(4000);
});

test("an image that has become shorter cannot be compared with", () => {
  truncateSync(join(directory, "image"), 1000);
  expect(() => reference.compare(0, wanted(0, 4096))).toThrow(
    "cannot compare: the image ends at 1000 by now",
  );
});
