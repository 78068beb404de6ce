/** link-pipe.ts: who gets a larger pipe, for how long, and what a worker learns of it. */
import { afterEach, describe, expect, test } from "vitest";
import { Journal } from "../../../../src/journal/journal.ts";
import { BASE_PIPE_BYTES, JOURNAL_BYTES } from "../../../../src/journal/layout.ts";
import { LinkPipe } from "../../../../src/pool/links/link-pipe.ts";
import { PipeCapacity } from "../../../../src/serving/replies/pipe-capacity.ts";
import { growPipe, pipe } from "../../../../src/sys/libc/pipes.ts";
import { until } from "../../../helpers/until.ts";

const KIB = 1024;
/** Longer than a pipe stays large without a large reply. */
const LATER_MS = 11_000;

interface Link {
  readonly journal: Journal;
  readonly held: LinkPipe;
  readonly capacity: PipeCapacity;
}

const links: Link[] = [];
afterEach(() => {
  for (const { held } of links.splice(0)) held.close();
});

/** A link's pipe from both sides: the manager's, and that of its worker. */
function link(): Link {
  const journal = new Journal(new ArrayBuffer(JOURNAL_BYTES));
  const held = new LinkPipe(pipe(), journal);
  held.changeHands();
  links.push({ journal, held, capacity: new PipeCapacity(held.ends[1], journal) });
  return links.at(-1) as Link;
}

/** The capacity, without a change of it. */
const sizeOf = ({ held }: Link): number => growPipe(held.ends[1], 0);

describe("a link's pipe", () => {
  test("is grown by the manager while large replies want that, and shrinks to its base when they do not", async () => {
    const one = link();
    expect(sizeOf(one)).toBe(BASE_PIPE_BYTES);
    one.journal.pipeWishBytes = 500 * KIB;
    one.held.adapt(0);
    await until("the pipe is resized", () => one.journal.pipeBytes === 512 * KIB);
    expect(sizeOf(one)).toBe(512 * KIB);
    one.journal.pipeWishBytes = 500 * KIB;
    one.held.adapt(LATER_MS);
    one.held.adapt(LATER_MS + 1000);
    one.held.adapt(2 * LATER_MS);
    await until("the pipe is resized", () => one.journal.pipeBytes === BASE_PIPE_BYTES);
    expect(sizeOf(one)).toBe(BASE_PIPE_BYTES);
  });

  test("shrinks too when the worker has grown it itself", async () => {
    const one = link();
    one.capacity.need(300 * KIB);
    expect(sizeOf(one)).toBe(512 * KIB);
    one.held.adapt(0);
    await until("the pipe is resized", () => one.journal.pipeBytes === 512 * KIB);
    one.held.adapt(LATER_MS);
    await until("the pipe is resized", () => one.journal.pipeBytes === BASE_PIPE_BYTES);
    // The next large reply is not held up by what was known before.
    one.capacity.need(300 * KIB);
    expect(one.capacity.bytes).toBe(512 * KIB);
    expect(sizeOf(one)).toBe(512 * KIB);
  });

  test("stays as it is for a worker that does not say what it needs", async () => {
    const [one, other] = [link(), link()];
    one.capacity.need(300 * KIB);
    one.held.adapt(0);
    await until("the pipe is resized", () => one.journal.pipeBytes === 512 * KIB);
    one.held.changeHands();
    one.held.adapt(LATER_MS);
    // Changes are made in order: the one that is awaited is later than one that there should not be.
    other.journal.pipeWishBytes = 500 * KIB;
    other.held.adapt(LATER_MS);
    await until("the pipe is resized", () => other.journal.pipeBytes === 512 * KIB);
    expect(sizeOf(one)).toBe(512 * KIB);
  });

  test("does not grow without limit in all links together", async () => {
    const many = Array.from({ length: 100 }, link);
    for (const { journal, held } of many) {
      journal.pipeWishBytes = 1000 * KIB;
      held.adapt(0);
    }
    // Changes are made in order, and there is room for this one.
    const last = link();
    last.journal.pipeWishBytes = 200 * KIB;
    last.held.adapt(0);
    await until("the pipe is resized", () => last.journal.pipeBytes === 256 * KIB);
    const beyond = many.reduce((sum, one) => sum + sizeOf(one) - BASE_PIPE_BYTES, 0);
    expect(beyond).toBeLessThanOrEqual(64 * KIB * KIB);
  });

  test("ignores a size that no worker would want", () => {
    const one = link();
    one.journal.pipeWishBytes = -1;
    one.held.adapt(0);
    one.held.adapt(LATER_MS);
    expect(sizeOf(one)).toBe(BASE_PIPE_BYTES);
  });
});
