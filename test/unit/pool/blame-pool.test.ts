/** Which worker takes a link, which links part, and how fast dead workers are replaced. */
import { describe, expect, test } from "vitest";
import {
  MAX_RESTART_DELAY_MS,
  MIN_DELAY_MS,
  type Occupied,
  place,
  RESTART_BUDGET,
  RestartBackoff,
  SHORT_LIFE_MS,
  shouldMove,
  type WorkerDeath,
} from "../../../src/pool/blame.ts";

/** The largest chance there is, nearly: delays are their nominal size. */
const almostOne = (): number => 1 - Number.EPSILON;

describe("place", () => {
  const empty = { name: "empty", links: 0, suspects: 0, innocents: 0 };
  const clean = { name: "clean", links: 2, suspects: 0, innocents: 2 };
  const cleaner = { name: "cleaner", links: 1, suspects: 0, innocents: 1 };
  const dirty = { name: "dirty", links: 3, suspects: 3, innocents: 0 };
  const mixed = { name: "mixed", links: 2, suspects: 1, innocents: 1 };
  const innocent = { isSuspect: false, company: "any" } as const;
  const suspect = { isSuspect: true, company: "any" } as const;
  const killer = { isSuspect: true, company: "suspects-only" } as const;

  test.each([
    ["an innocent takes the fewest links", innocent, [clean, cleaner], "cleaner"],
    ["an innocent keeps away from suspects", innocent, [mixed, dirty, clean], "clean"],
    ["an innocent goes to suspects rather than nowhere", innocent, [dirty, mixed], "mixed"],
    ["a suspect keeps away from innocents", suspect, [cleaner, dirty], "dirty"],
    ["a suspect takes the fewest links", suspect, [dirty, empty, clean], "empty"],
    ["a suspect goes to innocents rather than nowhere", suspect, [clean, mixed], "clean"],
    ["a killer never goes to innocents", killer, [clean, mixed, cleaner], undefined],
    ["a killer goes to its like", killer, [clean, dirty], "dirty"],
    ["nobody goes to no worker", innocent, [], undefined],
  ])("%s", (_, link, candidates, expected) => {
    expect(place(candidates, link)?.name).toBe(expected);
  });
});

describe("shouldMove", () => {
  const worker = (name: string, suspicions: Record<number, number>): Occupied<string> => ({
    worker: name,
    links: Object.entries(suspicions).map(([link, suspicion]) => ({ link: Number(link), suspicion })),
  });

  test.each([
    ["nobody, where all are innocent", [worker("A", { 1: 0, 2: 0 }), worker("B", {})], []],
    ["nobody, where there is no other worker", [worker("A", { 1: 0, 2: 3 })], []],
    ["nobody, where all are apart", [worker("A", { 1: 0 }), worker("B", { 2: 1 })], []],
    [
      "suspects to an empty worker",
      [worker("A", { 1: 0, 2: 3, 3: 1 }), worker("B", { 4: 0 }), worker("C", {})],
      [
        [2, "A", "C"],
        [3, "A", "C"],
      ],
    ],
    [
      "suspects to as many workers as there are",
      [worker("A", { 1: 0, 2: 3, 3: 1 }), worker("B", {}), worker("C", {})],
      [
        [2, "A", "B"],
        [3, "A", "C"],
      ],
    ],
    ["suspects to suspects", [worker("A", { 1: 0, 2: 3 }), worker("B", { 4: 1 })], [[2, "A", "B"]]],
    [
      "innocents to innocents, where nothing else is left",
      [worker("A", { 1: 0, 2: 3, 5: 0 }), worker("B", { 4: 0 })],
      [
        [1, "A", "B"],
        [5, "A", "B"],
      ],
    ],
    ["nobody, where all are mixed", [worker("A", { 1: 0, 2: 3 }), worker("B", { 3: 0, 4: 1 })], []],
    ["the worst of several suspects alone", [worker("A", { 1: 1, 2: 3 }), worker("B", {})], [[2, "A", "B"]]],
    ["nobody to a suspect that is alone", [worker("A", { 1: 1, 2: 3 }), worker("B", { 3: 1 })], []],
  ])("moves %s", (_, workers, expected) => {
    expect(shouldMove(workers).map(({ link, from, to }) => [link, from, to])).toEqual(expected);
  });
});

describe("RestartBackoff", () => {
  const early: Omit<WorkerDeath, "nowMs"> = { livedMs: 100, served: false, blamedOnLink: false };

  /** Kills a worker again and again, each after the delay of the one before it; returns the delays. */
  function delays(backoff: RestartBackoff, deaths: ReadonlyArray<Partial<WorkerDeath>>): number[] {
    let nowMs = 1_000_000;
    return deaths.map((death) => {
      nowMs += death.livedMs ?? early.livedMs;
      backoff.died({ ...early, nowMs, ...death });
      const delayMs = backoff.delayMs(almostOne);
      nowMs += delayMs;
      return Math.round(delayMs);
    });
  }

  test("a few early deaths are replaced at once, then ever more slowly up to a limit", () => {
    expect(delays(new RestartBackoff(), Array(12).fill({}))).toEqual([
      ...[0, 0, 0],
      ...[200, 400, 800, 1600, 3200, 6400],
      ...[MAX_RESTART_DELAY_MS, MAX_RESTART_DELAY_MS, MAX_RESTART_DELAY_MS],
    ]);
  });

  test("a worker that got ready and then crashed is no better than one that never started", () => {
    const found = delays(new RestartBackoff(), Array(8).fill({ livedMs: SHORT_LIFE_MS - 1 }));
    expect(found[RESTART_BUDGET]).toBe(MIN_DELAY_MS);
    expect(found.at(-1)).toBe(3200);
  });

  test.each<[string, Partial<WorkerDeath>]>([
    ["it had answered something", { served: true }],
    ["it had lived long", { livedMs: SHORT_LIFE_MS }],
  ])("the death of one is no failure when %s, and ends the story", (_, useful) => {
    expect(delays(new RestartBackoff(), Array(20).fill(useful))).toEqual(Array(20).fill(0));
    const found = delays(new RestartBackoff(), [...Array(5).fill({}), useful, {}]);
    expect(found.slice(-3)).toEqual([400, 0, 0]);
  });

  test("a link's blame is not the pool's", () => {
    expect(delays(new RestartBackoff(), Array(20).fill({ blamedOnLink: true }))).toEqual(Array(20).fill(0));
  });

  test("after a quiet time an early death begins a new story", () => {
    const backoff = new RestartBackoff();
    delays(backoff, Array(9).fill({}));
    backoff.died({ ...early, nowMs: 2_000_000 });
    expect(backoff.delayMs(almostOne)).toBe(0);
  });
});
