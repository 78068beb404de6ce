/**
 * An image that is written and put back while it is read, its modification time too: the bytes of the write never
 * leave.
 */
import { chmodSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import type { FileSource } from "../../../src/source/file-source.ts";
import { readSteadily, StaleReadError } from "../../../src/source/source.ts";
import { openFileSource, openPatternFile, patternAt } from "../../helpers/images/sources.ts";
import { HandDrivenLink } from "../../helpers/nbd/hand-driven-link.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";

const SIZE = 1 << 20;
const MADE_AT = 1_700_000_000;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-touched-"));
const image = join(directory, "image");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let file: FileSource;
let harness: HandDrivenLink | undefined;
afterEach(() => {
  harness?.dispose();
  harness = undefined;
  file.close();
});

/** What happens while the source reads for the n-th time, before and after it has the bytes. */
type Meanwhile = (read: number) => { before?: () => void; after?: () => void };

/** A file without a lease; things happen to it while it is read. */
function touchedFile(meanwhile: Meanwhile): FileSource {
  openPatternFile(image, SIZE).close();
  // A time that can be set back to the last digit.
  utimesSync(image, MADE_AT, MADE_AT);
  file = openFileSource(image);
  const read = file.read.bind(file);
  let reads = 0;
  file.read = (target, offsetBytes) => {
    reads += 1;
    const { before, after } = meanwhile(reads);
    before?.();
    read(target, offsetBytes);
    after?.();
  };
  return file;
}

/** The image is written before the first read, and put back after it. */
function writtenAndPutBack(): Meanwhile {
  let good: Buffer | undefined;
  return (read) => {
    if (read > 1) return {};
    good = readFileSync(image);
    return {
      before: () => writeFileSync(image, Buffer.alloc(SIZE, 0xee), { flag: "r+" }),
      after: () => {
        writeFileSync(image, good as Buffer, { flag: "r+" });
        utimesSync(image, MADE_AT, MADE_AT);
      },
    };
  };
}

/** Answers reads of these lengths that come in one go, the n-th from offset n, and compares every byte. */
function expectRight(source: FileSource, lengths: readonly number[]): void {
  harness = new HandDrivenLink(source);
  const reads = lengths.map((length, at) => requestHeader(0, 0, BigInt(at), BigInt(at), length));
  harness.put(Buffer.concat(reads));
  const replies = harness.replies((cookie) => lengths[Number(cookie)] ?? 0);
  expect(replies).toHaveLength(lengths.length);
  for (const { errno, cookie, data } of replies) {
    expect(errno).toBe(0);
    expect(data.equals(patternAt(Number(cookie), lengths[Number(cookie)] ?? 0))).toBe(true);
  }
}

describe.each([
  ["a batch of small reads", [4096, 512, 4096]],
  ["a read that goes alone", [700_000]],
  ["small reads before a large one", [4096, 700_000, 512]],
])("%s", (_, lengths) => {
  test("of an image that is written and put back meanwhile has the image's bytes", () => {
    expectRight(touchedFile(writtenAndPutBack()), lengths);
  });

  test("of an image whose mode is changed at each read but the last is answered", () => {
    const change: Meanwhile = (read) => (read <= 2 ? { after: () => chmodSync(image, 0o600 + read) } : {});
    expectRight(touchedFile(change), lengths);
  });
});

describe("a file source", () => {
  test("that was touched since the last look has to be read again, once", () => {
    file = openPatternFile(image, SIZE);
    chmodSync(image, 0o640);
    let reads = 0;
    readSteadily(() => {
      reads += 1;
      file.verify();
    });
    expect(reads).toBe(2);
    file.verify();
  });

  test("that is touched at every read fails the read in the end", () => {
    file = openPatternFile(image, SIZE);
    let mode = 0o600;
    expect(() =>
      readSteadily(() => {
        mode = mode === 0o600 ? 0o640 : 0o600;
        // The clock that such times are taken from moves every few milliseconds.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
        chmodSync(image, mode);
        file.verify();
      }),
    ).toThrow(StaleReadError);
  });
});
