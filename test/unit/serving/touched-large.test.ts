/**
 * An image whose mode is changed while a large reply waits in its link's queue: the reply is read again if none of its
 * data has left, and the link is cut if a part has left by reference.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { Journal } from "../../../src/journal/journal.ts";
import { JOURNAL_BYTES } from "../../../src/journal/layout.ts";
import type { JournaledLink } from "../../../src/serving/link-context.ts";
import { FileSource } from "../../../src/source/file-source.ts";
import { SourceError } from "../../../src/source/source.ts";
import { pipe } from "../../../src/sys/libc/pipes.ts";
import { MSG_DONTWAIT, recv } from "../../../src/sys/libc/sockets.ts";
import { openFileSource, openPatternFile, PatternSource, patternAt } from "../../helpers/images/sources.ts";
import { HandDrivenLink, parseReplies } from "../../helpers/nbd/hand-driven-link.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";

const SIZE = 1 << 20;
const SMALL = 4096;
const LARGE = 200_000;
const HEADER = 16;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-touched-"));
const image = join(directory, "image");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** A file under a lease that the test ends. */
class LeasedFileSource extends FileSource {
  leased = true;

  override get mayShare(): boolean {
    return this.leased;
  }
}

let file: LeasedFileSource;
let harness: HandDrivenLink;
afterEach(() => {
  harness.dispose();
  file?.close();
});

function journaled(): JournaledLink {
  const [readFd, writeFd] = pipe();
  return { journal: new Journal(new ArrayBuffer(JOURNAL_BYTES)), pipe: { readFd, writeFd }, counted: true };
}

const read = (cookie: bigint, at: number, length: number): Buffer =>
  requestHeader(0, 0, cookie, BigInt(at), length);

/** The lease ends, and the file's change time moves; its bytes do not. */
function touch(): void {
  file.leased = false;
  // The clock that such times are taken from moves every few milliseconds.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  chmodSync(image, 0o640);
}

describe.each([
  ["with a journal", journaled],
  ["without a journal", () => undefined],
])("a large reply of a link %s", (_, journal) => {
  /** A link whose socket is too small for a large reply. */
  function start(): void {
    openPatternFile(image, SIZE).close();
    chmodSync(image, 0o600);
    file = openFileSource(image, LeasedFileSource) as LeasedFileSource;
    const options = journal();
    harness = new HandDrivenLink(file, options === undefined ? {} : { journal: options });
    harness.shrinkSocket();
  }

  test("none of whose data has left is read again", () => {
    start();
    // Unread, this leaves no room in the socket for another byte.
    harness.say(read(1n, 0, SMALL));
    harness.say(read(2n, 5, LARGE));
    touch();
    const replies = harness.replies((cookie) => (cookie === 1n ? SMALL : LARGE));
    expect(harness.ends).toEqual([]);
    expect(replies).toMatchObject([
      { errno: 0, cookie: 1n },
      { errno: 0, cookie: 2n },
    ]);
    expect(replies[1]?.data.equals(patternAt(5, LARGE))).toBe(true);
  });

  test("is never finished when a part of it has left by reference", () => {
    start();
    harness.say(read(2n, 5, LARGE));
    const piece = new Uint8Array(SMALL);
    const got = recv(harness.peerFd, piece, piece.length, MSG_DONTWAIT);
    expect(got).toBeGreaterThan(HEADER);
    touch();
    const heard = Buffer.concat([piece.subarray(0, got), harness.hear()]);
    expect(harness.ends).toMatchObject([{ kind: "source-error" }]);
    expect(heard.length).toBeLessThan(HEADER + LARGE);
    expect(() => parseReplies(heard, () => LARGE)).toThrow();
  });
});

test("a file that is touched while it enters the pipe is read again", () => {
  openPatternFile(image, SIZE).close();
  chmodSync(image, 0o600);
  file = openFileSource(image, LeasedFileSource) as LeasedFileSource;
  harness = new HandDrivenLink(file, { journal: journaled() });
  const verify = file.verify.bind(file);
  let verified = 0;
  file.verify = () => {
    verified += 1;
    if (verified === 1) touch();
    verify();
  };
  harness.say(read(1n, 5, LARGE));
  const [reply] = harness.replies(() => LARGE);
  expect(reply).toMatchObject({ errno: 0, cookie: 1n });
  expect(reply?.data.equals(patternAt(5, LARGE))).toBe(true);
  expect(verified).toBe(2);
});

test("a large read that fails gives its buffer to the next one", () => {
  const source = new PatternSource(SIZE);
  const buffers: ArrayBufferLike[] = [];
  const readPattern = source.read.bind(source);
  source.read = (target, offsetBytes) => {
    buffers.push(target.buffer);
    readPattern(target, offsetBytes);
  };
  harness = new HandDrivenLink(source);
  for (const [cookie, failure] of [
    [1n, new SourceError("cannot read: the test says so")],
    [2n, undefined],
  ] as const) {
    source.readFailure = failure;
    harness.say(read(cookie, 0, SIZE));
    expect(harness.replies(() => SIZE)).toMatchObject([{ errno: failure === undefined ? 0 : 5, cookie }]);
  }
  // Not by toBe: it would print megabytes.
  expect(buffers[1] === buffers[0]).toBe(true);
});
