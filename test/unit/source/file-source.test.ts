/**
 * A local file as a source: exact bytes, or an error that says why; the file that was opened and no other.
 */
import {
  closeSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  describeChange,
  describeDoubt,
  type FileIdentity,
  identifyImage,
} from "../../../src/source/file-identity.ts";
import type { FileSource } from "../../../src/source/file-source.ts";
import { openImage } from "../../../src/source/open-image.ts";
import { readSteadily, SourceError } from "../../../src/source/source.ts";
import { openSource } from "../../../src/source/source-spec.ts";
import { openFileSource, openPatternFile, patternAt } from "../../helpers/images/sources.ts";

const SIZE = 100_000;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-source-"));
const path = join(directory, "image");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let source: FileSource;
beforeEach(() => {
  source = openPatternFile(path, SIZE);
});
afterEach(() => source.close());

/** As the loop does it: the data counts only once the source has vouched for it. */
function read(at: number, length: number): Buffer {
  const target = new Uint8Array(length).fill(0xaa);
  readSteadily(() => {
    source.read(target, at);
    source.verify();
  });
  return Buffer.from(target);
}

describe("a file source", () => {
  test.each([
    [0, 1],
    [0, SIZE],
    [SIZE - 1, 1],
    [4095, 2],
    [12_345, 50_000],
  ])("reads at %i so many bytes: %i", (at, length) => {
    expect(read(at, length).equals(patternAt(at, length))).toBe(true);
  });

  test("without a lease has no bytes that may be sent as they lie there", () => {
    expect(source.extent(4096)).toBeUndefined();
    expect(source.sizeBytes).toBe(SIZE);
  });

  test.each([
    ["truncated", () => truncateSync(path, SIZE - 1), `it was truncated from ${SIZE} to ${SIZE - 1} bytes`],
    ["emptied", () => truncateSync(path, 0), `it was truncated from ${SIZE} to 0 bytes`],
    ["grown", () => truncateSync(path, SIZE + 1), `its size changed from ${SIZE} to ${SIZE + 1} bytes`],
    ["rewritten with the same size", () => writeFileSync(path, Buffer.alloc(SIZE)), "it was modified"],
    [
      "written to in one byte",
      () => {
        const fd = openSync(path, "r+");
        writeSync(fd, Buffer.of(1), 0, 1, 50);
        closeSync(fd);
      },
      "it was modified",
    ],
    ["given an older time", () => utimesSync(path, 1, 1), "it was modified"],
  ])("does not vouch for a file that was %s", (_, change, reason) => {
    read(0, 10);
    // Kernels stamp files in steps of some milliseconds: make sure that this change is a later one.
    utimesSync(path, 1_000_000_000, 1_000_000_000.25);
    source.close();
    source = openFileSource(path);
    change();
    expect(() => source.verify()).toThrow(SourceError);
    expect(() => source.verify()).toThrow(`cannot serve ${path}: ${reason}`);
  });

  test("vouches again once the file is as it was", () => {
    utimesSync(path, 1_000_000_000, 1_000_000_000);
    source.close();
    source = openFileSource(path);
    truncateSync(path, SIZE + 10);
    expect(() => source.verify()).toThrow(SourceError);
    truncateSync(path, SIZE);
    utimesSync(path, 1_000_000_000, 1_000_000_000);
    expect(read(7, 7)).toEqual(patternAt(7, 7));
  });

  test("throws inside a read that the file no longer holds, and says why", () => {
    truncateSync(path, 5000);
    const truncated = `cannot serve ${path}: it was truncated from ${SIZE} to 5000 bytes`;
    expect(() => source.read(new Uint8Array(100), 4950)).toThrow(truncated);
    expect(() => source.read(new Uint8Array(1), 90_000)).toThrow(SourceError);
    expect(() => source.read(new Uint8Array(50), 4950)).not.toThrow();
  });

  test("stays with the file it opened when another takes its name or its name goes", () => {
    const other = join(directory, "other");
    writeFileSync(other, Buffer.alloc(SIZE, 0xee));
    renameSync(other, path);
    expect(read(100, 1000)).toEqual(patternAt(100, 1000));
    rmSync(path);
    expect(read(200, 1000)).toEqual(patternAt(200, 1000));
  });

  test("is the same when it is opened from a spec, as a worker does", () => {
    const image = openImage(path);
    const spec = JSON.parse(JSON.stringify(image.spec));
    const opened = openSource(spec, image.fd);
    const target = new Uint8Array(512);
    void opened.read(target, 1024);
    opened.verify();
    expect(Buffer.from(target)).toEqual(patternAt(1024, 512));
    opened.close();
  });
});

describe("an identity", () => {
  const pinned: FileIdentity = { kind: "file", device: "8:1", inode: "12", sizeBytes: 4096, mtimeNs: "17" };

  test.each<[Partial<FileIdentity>, string | undefined]>([
    [{}, undefined],
    [{ kind: "block-device" }, "it is another file now"],
    [{ device: "8:2" }, "it is another file now"],
    [{ inode: "13" }, "it was replaced by another file"],
    [{ sizeBytes: 10 }, "it was truncated from 4096 to 10 bytes"],
    [{ sizeBytes: 8192 }, "its size changed from 4096 to 8192 bytes"],
    [{ mtimeNs: "18" }, "it was modified"],
    [{ inode: "13", sizeBytes: 10, mtimeNs: "18" }, "it was replaced by another file"],
  ])("that differs by %o: %s", (difference, words) => {
    expect(describeChange(pinned, { ...pinned, ...difference })).toBe(words);
  });

  test("of a file whose inode, size and time another file has got differs by when it came to be", () => {
    const known = { ...pinned, createdNs: "3" };
    expect(describeChange(known, { ...known, createdNs: "4" })).toBe(
      "it was replaced by another file, which reuses its inode number",
    );
    // A file system that does not keep it, and a record of a former version.
    expect(describeChange(known, pinned)).toBeUndefined();
    expect(describeChange(pinned, known)).toBeUndefined();
  });

  test("of a disk differs from that of the next one with its number", () => {
    const device: FileIdentity = { ...pinned, kind: "block-device", diskSequence: "8" };
    expect(describeChange(device, { ...device, diskSequence: "9" })).toBe(
      "its device number now belongs to another disk or medium",
    );
  });

  test("shows nothing after a write whose time was set back: but that something may have happened", () => {
    const fd = openSync(path, "r+");
    utimesSync(path, 1, 1);
    const first = identifyImage(fd, path);
    const ctime = (): bigint => statSync(path, { bigint: true }).ctimeNs;
    const before = ctime();
    do {
      writeSync(fd, "other", 0);
      utimesSync(path, 1, 1);
    } while (ctime() === before);
    const now = identifyImage(fd, path);
    expect(describeChange(first, now)).toBeUndefined();
    expect(describeDoubt(first, now)).toMatch(/^it was touched after the attach/);
    expect(describeDoubt(first, first)).toBeUndefined();
    closeSync(fd);
  });

  test("of a block device does not depend on inode and time of its node", () => {
    const device: FileIdentity = { ...pinned, kind: "block-device" };
    expect(describeChange(device, { ...device, inode: "99", mtimeNs: "99" })).toBeUndefined();
    expect(describeChange(device, { ...device, device: "43:0" })).toBe("it is another file now");
  });

  test("does not change with the name", () => {
    const fd = openSync(path, "r");
    const first = identifyImage(fd, path);
    renameSync(path, `${path}-renamed`);
    expect(describeChange(first, identifyImage(fd, path))).toBeUndefined();
    closeSync(fd);
  });
});
