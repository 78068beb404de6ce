/** The plan of a chaos run: what one seed always gives. Properties are in test/property/chaos.test.ts. */
import { expect, test } from "vitest";
import { planFaults, randomFrom } from "../../../src/chaos/schedule.ts";

test("planFaults: a seed's plan is the same in every version, or runs could not be had again", () => {
  const plan = planFaults({ seed: 4711, kills: 6, intervalMs: 1000, what: ["worker", "hang", "link"] });
  expect(plan.map(({ kind, waitMs }) => `${kind} ${waitMs}`)).toMatchInlineSnapshot(`
    [
      "link 1070",
      "worker 1293",
      "hang 690",
      "worker 917",
      "link 1390",
      "hang 1295",
    ]
  `);
});

test("planFaults: another interval or more kills change no kind", () => {
  const what = ["worker", "hang", "link", "manager"] as const;
  const kinds = (kills: number, intervalMs: number): string[] =>
    planFaults({ seed: 9, kills, intervalMs, what }).map(({ kind }) => kind);
  expect(kinds(40, 10)).toEqual(kinds(40, 5000));
  expect(kinds(40, 10).slice(0, 7)).toEqual(kinds(7, 10));
});

test("planFaults: nothing to choose from is no fault", () => {
  expect(planFaults({ seed: 1, kills: 3, intervalMs: 10, what: [] })).toEqual([]);
});

test("randomFrom: streams and seeds differ, and the numbers spread over the whole range", () => {
  const first = (seed: number, stream: number): number[] => {
    const random = randomFrom(seed, stream);
    return Array.from({ length: 1000 }, random);
  };
  expect(first(1, 1)).toEqual(first(1, 1));
  expect(first(1, 1)).not.toEqual(first(1, 2));
  expect(first(1, 1)).not.toEqual(first(2, 1));
  const tenths = new Set(first(3, 0).map((number) => Math.floor(number * 10)));
  expect([...tenths].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});
