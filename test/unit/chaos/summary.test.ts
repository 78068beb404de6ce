/** A run in words. */
import { expect, test } from "vitest";
import type { ChaosRun } from "../../../src/chaos/run.ts";
import type { LoggedFault } from "../../../src/chaos/run-log.ts";
import { describeFault, formatMs, formatSummary } from "../../../src/chaos/summary.ts";

const RUN: ChaosRun = {
  version: "1.2.3",
  kernel: "6.12.0",
  nodeVersion: "v20.11.0",
  device: "/dev/nbd0",
  image: "/images/tree.erofs",
  imageBytes: 113_045_504,
  seed: 4711,
  startedAt: "2026-01-01T00:00:00.000Z",
  durationMs: 61_234,
  intervalMs: 1000,
  what: ["worker", "link"],
  depth: 8,
  faults: [],
  latency: [],
  kinds: [
    { kind: "none", count: 15, takeovers: 0, reconnects: 0, p50Ms: 4.1, p99Ms: 9, longestMs: 9 },
    { kind: "worker", count: 12, takeovers: 11, reconnects: 1, p50Ms: 21.5, p99Ms: 1065, longestMs: 1065 },
  ],
  baseline: { reads: 5000, p50Ms: 0.31, p99Ms: 4, p999Ms: 8, longestMs: 9 },
  totals: {
    reads: 100_000,
    bytes: 3 * 2 ** 30,
    wrong: 0,
    errors: 0,
    uncounted: 0,
    p50Ms: 0.32,
    p99Ms: 5,
    p999Ms: 20,
    longestMs: 1065,
  },
  verdict: "passed",
  problems: [],
};

test("formatSummary: verdict, table, reads, and how to have it again", () => {
  expect(formatSummary(RUN, false)).toMatchInlineSnapshot(`
    "passed: 0 faults, 12 failovers recovered, 0 uncounted, 100000 reads (3.0 GiB), 0 wrong, 0 errors, 61.2 s

    KIND    FAULTS  TAKEOVERS  RECONNECTS      P50      P99  LONGEST
    none         -          -           -  4.10 ms  9.00 ms  9.00 ms
    worker      12         11           1  21.5 ms   1.06 s   1.06 s
    P50, P99 and LONGEST: the longest read after each fault; none: the longest of each 0.2 s before the first.

    reads before the first fault  p50 0.31 ms, p99 4.00 ms, p99.9 8.00 ms, longest 9.00 ms
    reads in all                  p50 0.32 ms, p99 5.00 ms, p99.9 20.0 ms, longest 1.06 s
    again: erofs-nbd chaos /dev/nbd0 --what worker,link --interval 1000 --depth 8 --seed 4711"
  `);
});

test("formatSummary: problems follow the verdict, an interruption is said", () => {
  const failed = formatSummary({ ...RUN, verdict: "failed", problems: ["one", "two"] }, true).split("\n");
  expect(failed[0]).toMatch(/^failed, interrupted: 0 faults, /);
  expect(failed.slice(1, 4)).toEqual(["  one", "  two", ""]);
  expect(formatSummary({ ...RUN, problems: ["a\nb\u001b[2J"] }, false)).toContain("\n  a\\nb\\x1b[2J\n");
});

test.each([
  [0, "0.00 ms"],
  [9.994, "9.99 ms"],
  [31.04, "31.0 ms"],
  [1065, "1.06 s"],
  [63_400, "63.40 s"],
])("formatMs: %d is %s", (ms, text) => {
  expect(formatMs(ms)).toBe(text);
});

const FAULT: LoggedFault = {
  kind: "worker",
  atMs: 12_345,
  label: "SIGKILL to worker 4712",
  outcome: { level: "takeover", result: "recovered", cause: "it died", stallMs: 14.2 },
  longestReadMs: 31,
  takeovers: 1,
  reconnects: 0,
};

test.each<[string, Partial<LoggedFault>, string]>([
  ["taken over", {}, "takeover, stood still 14.2 ms"],
  [
    "without failover",
    { outcome: { level: "none", result: "recovered", cause: "", stallMs: 0 } },
    "no failover",
  ],
  [
    "failed",
    { outcome: { level: "reconnect", result: "failed", cause: "", stallMs: 5 } },
    "reconnect failed, stood still 5.00 ms",
  ],
  ["cut short", { outcome: null }, "no outcome"],
])("describeFault: %s", (_, changes, words) => {
  expect(describeFault({ ...FAULT, ...changes }, 3, 20)).toBe(
    `   12.3 s  3/20  SIGKILL to worker 4712: ${words}; longest read 31.0 ms`,
  );
});
