/** policy/placement.ts: which worker takes a link, and which links move to another. */
import { describe, expect, test } from "vitest";
import { MAX_ISOLATED, type Occupied, place, shouldMove } from "../../../../src/pool/policy/placement.ts";

describe("place", () => {
  const empty = { name: "empty", links: 0, suspects: 0, innocents: 0 };
  const clean = { name: "clean", links: 2, suspects: 0, innocents: 2 };
  const cleaner = { name: "cleaner", links: 1, suspects: 0, innocents: 1 };
  const dirty = { name: "dirty", links: 3, suspects: 3, innocents: 0 };
  const mixed = { name: "mixed", links: 2, suspects: 1, innocents: 1 };
  const innocent = { isSuspect: false, placement: "any" } as const;
  const suspect = { isSuspect: true, placement: "any" } as const;
  const killer = { isSuspect: true, placement: "suspects-only" } as const;
  const hanging = { isSuspect: true, placement: "alone" } as const;
  const hung = { name: "hung", links: 1, suspects: 1, innocents: 0, isolated: 1 };
  const silent = { name: "silent", links: 0, suspects: 0, innocents: 0, isSilent: true };
  const entangled = { name: "entangled", links: 1, suspects: 0, innocents: 1, isEntangled: true };
  const isolating = Array.from({ length: MAX_ISOLATED }, (_, at) => ({
    ...hung,
    name: at === 2 ? "fewest" : "more",
    links: at === 2 ? 1 : 2,
    isolated: at === 2 ? 1 : 2,
  }));

  test.each([
    ["an innocent takes the fewest links", innocent, [clean, cleaner], "cleaner"],
    ["an innocent keeps away from suspects", innocent, [mixed, dirty, clean], "clean"],
    ["an innocent goes to suspects rather than nowhere", innocent, [dirty, mixed], "mixed"],
    ["a suspect keeps away from innocents", suspect, [cleaner, dirty], "dirty"],
    ["a suspect takes the fewest links", suspect, [dirty, empty, clean], "empty"],
    ["a suspect goes to innocents rather than nowhere", suspect, [clean, mixed], "clean"],
    ["a killer never goes to innocents", killer, [clean, mixed, cleaner], undefined],
    ["a killer goes to its like", killer, [clean, dirty], "dirty"],
    ["no link goes to no worker", innocent, [], undefined],
    ["a link that hung goes to an empty worker", hanging, [clean, dirty, empty], "empty"],
    ["a link that hung waits where there is none", hanging, [clean, dirty, hung], undefined],
    ["links that hung share workers when there are many", hanging, [empty, ...isolating], "fewest"],
    ["no link goes to a link that hung", innocent, [hung, clean], "clean"],
    ["no link goes to a link that hung rather than nowhere", innocent, [hung], undefined],
    ["a killer does not go to a link that hung", killer, [hung], undefined],
    ["no link asks a silent worker", innocent, [silent, dirty], "dirty"],
    ["no link asks a silent worker rather than none", innocent, [silent], undefined],
    ["no link goes to one that it waits for", innocent, [entangled, dirty], "dirty"],
    ["no link goes to one that it waits for rather than nowhere", innocent, [entangled], undefined],
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
    ["no link, where all are innocent", [worker("A", { 1: 0, 2: 0 }), worker("B", {})], []],
    ["no link, where there is no other worker", [worker("A", { 1: 0, 2: 3 })], []],
    ["no link, where all are apart", [worker("A", { 1: 0 }), worker("B", { 2: 1 })], []],
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
    ["no link, where all are mixed", [worker("A", { 1: 0, 2: 3 }), worker("B", { 3: 0, 4: 1 })], []],
    ["the worst of several suspects alone", [worker("A", { 1: 1, 2: 3 }), worker("B", {})], [[2, "A", "B"]]],
    ["no link to a suspect that is alone", [worker("A", { 1: 1, 2: 3 }), worker("B", { 3: 1 })], []],
  ])("moves %s", (_, workers, expected) => {
    expect(shouldMove(workers).map(({ link, from, to }) => [link, from, to])).toEqual(expected);
  });
});
