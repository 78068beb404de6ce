/** Spans added up: points, baseline and totals, for runs of any length. */
import { expect, test } from "vitest";
import { Latencies } from "../../../src/chaos/latencies.ts";
import type { Span } from "../../../src/chaos/reader/reader-protocol.ts";
import { SPAN_MS, Timeline } from "../../../src/chaos/timeline.ts";

function span(index: number, ...tookMs: number[]): Span {
  const latencies = new Latencies();
  for (const ms of tookMs) latencies.add(ms);
  const { longestMs } = latencies;
  return { type: "span", index, bytes: tookMs.length * 4096, counts: latencies.toSparse(), longestMs };
}

test("every span of time has a point, also one in which no read ended", () => {
  const timeline = new Timeline();
  timeline.add(span(0, 1, 2));
  timeline.add(span(3, 500));
  const points = timeline.points(5 * SPAN_MS - 1);
  expect(points.map(({ atMs, reads, bytes, maxMs }) => [atMs, reads, bytes, maxMs])).toEqual([
    [0, 2, 8192, 2],
    [SPAN_MS, 0, 0, 0],
    [2 * SPAN_MS, 0, 0, 0],
    [3 * SPAN_MS, 1, 4096, 500],
    [4 * SPAN_MS, 0, 0, 0],
  ]);
});

test("the baseline is what was read before the first fault, and stays it", () => {
  const timeline = new Timeline();
  timeline.add(span(0, 1, 2, 3));
  timeline.add(span(1, 4));
  timeline.endBaseline();
  timeline.add(span(2, 1000));
  expect(timeline.baselineFigures()).toMatchObject({ reads: 4, longestMs: 4 });
  expect(timeline.baselineSummary()).toMatchObject({ kind: "none", count: 2, p50Ms: 3, longestMs: 4 });
  expect(timeline.totalFigures()).toMatchObject({ reads: 5, longestMs: 1000 });
  expect([timeline.reads, timeline.bytes]).toEqual([5, 5 * 4096]);
});

test("a run of a day has as few points as one of minutes, and loses no read", () => {
  const timeline = new Timeline();
  const count = 50_000;
  for (let index = 0; index < count; index += 1) timeline.add(span(index, 1 + (index % 7)));
  const points = timeline.points(count * SPAN_MS);
  expect(points.length).toBeLessThanOrEqual(2400);
  expect(points.length).toBeGreaterThan(1000);
  expect(points.reduce((sum, { reads }) => sum + reads, 0)).toBe(count);
  const [first, second] = points;
  const lastMs = points.at(-1)?.atMs ?? 0;
  expect(lastMs + (second?.atMs ?? 0) - (first?.atMs ?? 0)).toBeGreaterThanOrEqual(count * SPAN_MS);
});
