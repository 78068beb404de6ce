/** Durations by size class. How exact quantiles are is a property: test/property/chaos.test.ts. */
import { expect, test } from "vitest";
import { Latencies, quantileOf } from "../../../src/chaos/latencies.ts";

test("Latencies: without reads everything is 0", () => {
  const none = new Latencies();
  expect([none.count, none.longestMs, none.quantile(0.99), none.toSparse()]).toEqual([0, 0, 0, []]);
});

test("Latencies: the longest is exact, whatever its class", () => {
  const some = new Latencies();
  for (const ms of [1234.5678, 0.5, 3]) some.add(ms);
  expect(some.longestMs).toBe(1234.5678);
  expect(some.quantile(1)).toBe(1234.5678);
  expect(some.quantile(0.01)).toBeCloseTo(0.5, 2);
});

test("Latencies: what was sent as numbers is the same on the other side, and adds up", () => {
  const here = new Latencies();
  for (let ms = 0; ms < 500; ms += 0.37) here.add(ms);
  const there = Latencies.fromSparse(here.toSparse(), here.longestMs);
  expect(there.count).toBe(here.count);
  expect(there.toSparse()).toEqual(here.toSparse());
  there.merge(here);
  expect(there.count).toBe(2 * here.count);
  for (const share of [0.1, 0.5, 0.99, 1]) expect(there.quantile(share)).toBe(here.quantile(share));
});

test.each([
  [[], 0.5, 0],
  [[7], 0.99, 7],
  [[3, 1, 2], 0.5, 2],
  [[4, 3, 2, 1], 0.5, 2],
  [[4, 3, 2, 1], 0.51, 3],
  [[4, 3, 2, 1], 1, 4],
])("quantileOf: of %j, share %d is %d", (values, share, wanted) => {
  expect(quantileOf(values, share)).toBe(wanted);
});
