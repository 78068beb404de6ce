/** The rule by which faults and failovers are set off against each other, row by row. */
import { describe, expect, test } from "vitest";
import {
  type Counted,
  countedBetween,
  type Expectation,
  expectationOf,
  judge,
  leastOf,
  type Told,
} from "../../../src/chaos/accounting.ts";
import type { FaultKind } from "../../../src/chaos/run.ts";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { deviceStatus } from "../cli/fake-manager.ts";

const NOTHING: Counted = { takeovers: 0, reconnects: 0, failedFailovers: 0, handovers: 0, readErrors: 0 };
const takeover: Told = { level: "takeover", result: "recovered" };
const reconnect: Told = { level: "reconnect", result: "recovered" };
const failed: Told = { level: "reconnect", result: "failed" };

function status(counts: Partial<Counted>, changes: Partial<DeviceStatus> = {}): DeviceStatus {
  const base = deviceStatus();
  return { ...base, counters: { ...base.counters, ...NOTHING, ...counts }, ...changes };
}

const workers = (...pids: number[]): DeviceStatus["links"] =>
  pids.map((workerPid, index) => ({ index, state: "up", workerPid, generation: 1 }));

test.each<[FaultKind, number, Expectation]>([
  ["worker", 1, { min: 1, max: 1, levels: "any", handovers: 0 }],
  ["worker", 3, { min: 1, max: 3, levels: "any", handovers: 0 }],
  ["hang", 1, { min: 1, max: 1, levels: "any", handovers: 0 }],
  ["both", 2, { min: 1, max: 2, levels: "any", handovers: 0 }],
  ["link", 1, { min: 1, max: 1, levels: "reconnect", handovers: 0 }],
  ["manager", 1, { min: 0, max: 1, levels: "any", handovers: 0 }],
  ["upgrade", 2, { min: 0, max: 0, levels: "any", handovers: 2 }],
])("expectationOf: %s that hits %d link(s)", (kind, links, wanted) => {
  expect(expectationOf(kind, links)).toEqual(wanted);
});

test("countedBetween: the difference, also where another manager has gone on counting", () => {
  const before = status({ takeovers: 3, reconnects: 1, handovers: 7 }, { managerPid: 100 });
  const after = status({ takeovers: 4, reconnects: 1, handovers: 9, readErrors: 2 }, { managerPid: 101 });
  expect(countedBetween(before, after)).toEqual({ ...NOTHING, takeovers: 1, handovers: 2, readErrors: 2 });
});

describe("leastOf: after the death of a manager", () => {
  const expected = expectationOf("manager", 1);
  const before = status({}, { managerPid: 100, links: workers(7, 8) });
  const least = (now: DeviceStatus): number => leastOf("manager", expected, before, now);

  test("none is needed while the same workers serve on", () => {
    expect(least(status({}, { managerPid: 101, links: workers(7, 8) }))).toBe(0);
  });
  test("one has to come where another worker serves", () => {
    expect(least(status({}, { managerPid: 101, links: workers(7, 9) }))).toBe(1);
  });
  test("none is needed where links were handed over by plan", () => {
    expect(least(status({ handovers: 1 }, { managerPid: 101, links: workers(7, 9) }))).toBe(0);
  });
  test("every other fault needs the same, whichever worker serves", () => {
    const same = status({}, { links: workers(7, 8) });
    expect(leastOf("worker", expectationOf("worker", 1), before, same)).toBe(1);
  });
});

const ONE: Expectation = { min: 1, max: 1, levels: "any", handovers: 0 };
const CUT: Expectation = { min: 1, max: 1, levels: "reconnect", handovers: 0 };
const NONE_OR_ONE: Expectation = { min: 0, max: 1, levels: "any", handovers: 0 };
const NONE: Expectation = { min: 0, max: 0, levels: "any", handovers: 0 };

test.each<[string, Expectation, Partial<Counted>, readonly Told[] | undefined]>([
  ["a takeover that was told", ONE, { takeovers: 1 }, [takeover]],
  ["a reconnect that was told", ONE, { reconnects: 1 }, [reconnect]],
  ["a reconnect without a listener", ONE, { reconnects: 1 }, undefined],
  ["a cut link and its reconnect", CUT, { reconnects: 1 }, [reconnect]],
  ["a manager's death without failover", NONE_OR_ONE, {}, undefined],
  ["a manager's death with one", NONE_OR_ONE, { reconnects: 1 }, undefined],
  [
    "three links, two failovers",
    { min: 1, max: 3, levels: "any", handovers: 0 },
    { takeovers: 1, reconnects: 1 },
    [takeover, reconnect],
  ],
  ["nothing between two faults", NONE, {}, []],
  ["an upgrade that hands both links over", { ...NONE, handovers: 2 }, { handovers: 2 }, undefined],
  ["links handed over by plan at any time", NONE, { handovers: 4 }, []],
])("judge: %s adds up", (_, expected, counted, told) => {
  expect(judge("it", expected, { ...NOTHING, ...counted }, told)).toEqual([]);
});

test.each<[string, Expectation, Partial<Counted>, readonly Told[] | undefined, readonly RegExp[]]>([
  ["a death without failover", ONE, {}, [], [/^it: 0 failovers were counted, wanted exactly 1$/]],
  ["two where one must be", ONE, { takeovers: 2 }, [takeover, takeover], [/2 failovers .* exactly 1$/]],
  ["two after a manager's death", NONE_OR_ONE, { reconnects: 2 }, undefined, [/2 failovers .* 0 to 1$/]],
  ["one without a fault", NONE, { takeovers: 1 }, [takeover], [/1 failovers .* exactly 0$/]],
  [
    "a cut socket that was taken over",
    CUT,
    { takeovers: 1 },
    [takeover],
    [/takeover\(s\) of a socket that was gone/],
  ],
  [
    "an upgrade that leaves a link where it was",
    { ...NONE, handovers: 2 },
    { handovers: 1 },
    [],
    [/1 link\(s\) handed over, wanted 2$/],
  ],
  [
    "an upgrade that costs a socket",
    { ...NONE, handovers: 1 },
    { handovers: 1, reconnects: 1 },
    [reconnect],
    [/1 failovers .* exactly 0$/],
  ],
  ["a count that another manager has lost", ONE, { takeovers: -1 }, undefined, [/^it: -1 failovers/]],
  ["a failed one", ONE, { failedFailovers: 1 }, [failed], [/1 failover\(s\) failed/]],
  ["reads answered with an error", ONE, { takeovers: 1, readErrors: 3 }, [takeover], [/^it: 3 read\(s\)/]],
  ["counted and not told", ONE, { takeovers: 1 }, [], [/counts 1 takeovers, the events tell 0/]],
  ["told and not counted", NONE, {}, [reconnect], [/counts 0 reconnects, the events tell 1/]],
  [
    "told as another level",
    ONE,
    { takeovers: 1 },
    [reconnect],
    [/counts 1 takeovers, the events tell 0/, /counts 0 reconnects, the events tell 1/],
  ],
  [
    "failed, told as recovered",
    { ...ONE, min: 0 },
    { failedFailovers: 1 },
    [reconnect],
    [/failed$/, /0 reconnects/, /1 failedFailovers/],
  ],
])("judge: %s is a problem", (_, expected, counted, told, wanted) => {
  const problems = judge("it", expected, { ...NOTHING, ...counted }, told);
  expect(problems).toHaveLength(wanted.length);
  wanted.forEach((pattern, at) => {
    expect(problems[at]).toMatch(pattern);
  });
});
