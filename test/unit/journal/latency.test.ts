/** latency.ts and what the journal makes of it: bucket borders, quantiles, differences, and a takeover in between. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Journal } from "../../../src/journal/journal.ts";
import {
  addLatency,
  countOf,
  LATENCY_WORDS,
  quantileMs,
  since,
  summarise,
  sumSecondsOf,
} from "../../../src/journal/latency.ts";
import { JOURNAL_BYTES } from "../../../src/journal/layout.ts";
import { newRequest } from "../../../src/nbd/wire.ts";
import { loopClock } from "../../../src/sys/loop-clock.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";

const of = (...milliseconds: number[]): number[] => {
  const buckets = new Float64Array(LATENCY_WORDS);
  for (const one of milliseconds) addLatency(buckets, one);
  return [...buckets];
};

describe("buckets", () => {
  test("a latency stands in the doubling that it belongs to, and in no other", () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 400_000, noNaN: true }), (milliseconds) => {
        const { count, doublings, sumSeconds } = summarise(of(milliseconds));
        expect(count).toBe(1);
        expect(sumSeconds).toBeCloseTo(milliseconds / 1000, 9);
        const at = doublings.findIndex((one) => one.count === 1);
        const microseconds = Math.floor(milliseconds * 1000) / 1e6;
        expect(microseconds).toBeLessThan(doublings[at]?.upToSeconds ?? 0);
        if (at > 0) expect(microseconds).toBeGreaterThanOrEqual(doublings[at - 1]?.upToSeconds ?? 0);
      }),
    );
  });

  test("the doublings go from 16 µs to 134 s, and beyond", () => {
    const ends = summarise([]).doublings.map(({ upToSeconds }) => upToSeconds);
    expect(ends[0]).toBe(16e-6);
    expect(ends.at(-2)).toBeCloseTo(134.217728, 6);
    expect(ends.at(-1)).toBe(Number.POSITIVE_INFINITY);
    expect(ends).toHaveLength(25);
  });
});

describe("quantiles", () => {
  test("there is none without requests", () => {
    expect(quantileMs([], 0.5)).toBeNull();
  });

  test("are within a quarter of the truth, whatever came", () => {
    const latencies = fc.array(fc.double({ min: 0.02, max: 100_000, noNaN: true }), { minLength: 1 });
    fc.assert(
      fc.property(latencies, fc.double({ min: 0.01, max: 1, noNaN: true }), (milliseconds, share) => {
        const sorted = [...milliseconds].sort((a, b) => a - b);
        const truth = sorted[Math.ceil(sorted.length * share - 1e-9) - 1] as number;
        const told = quantileMs(of(...milliseconds), share) as number;
        expect(told).toBeGreaterThan(truth / 1.26);
        expect(told).toBeLessThan(truth * 1.26 + 0.001);
      }),
    );
  });

  test("of what came since a look", () => {
    const before = of(1, 1, 1);
    const now = of(1, 1, 1, 50);
    const recent = since(now, before);
    expect(countOf(recent)).toBe(1);
    expect(sumSecondsOf(recent)).toBeCloseTo(0.05, 9);
    expect(quantileMs(recent, 0.5)).toBeGreaterThan(40);
    // A set that was begun anew counts from zero, and never backwards.
    expect(countOf(since(of(1), now))).toBe(0);
  });
});

describe("a journal", () => {
  const request = newRequest();
  const receive = (journal: Journal, count: number): number[] => {
    const bytes = Buffer.concat(
      [...Array(count).keys()].map((cookie) => requestHeader(0, 0, BigInt(cookie), 0n, 512)),
    );
    journal.inbox.set(bytes, journal.receiveAt);
    journal.received(bytes.length);
    const slots: number[] = [];
    while (journal.next(request)) slots.push(journal.entry);
    return slots;
  };
  const latenciesOf = (journal: Journal): number[] => {
    const total: number[] = [];
    journal.addLatenciesTo(total);
    return total;
  };
  const later = (milliseconds: number): void => {
    const end = performance.now() + milliseconds;
    while (performance.now() < end);
  };

  test("measures from the receive to the reply, each request of a batch", () => {
    const journal = new Journal(new ArrayBuffer(JOURNAL_BYTES));
    loopClock.read();
    const slots = receive(journal, 3);
    later(5);
    for (const slot of slots) journal.answered(slot);
    journal.measure(slots);
    expect(countOf(latenciesOf(journal))).toBe(3);
    expect(sumSecondsOf(latenciesOf(journal))).toBeGreaterThanOrEqual(0.015);
    expect(journal.entriesIn("unknown")).toEqual([]);
  });

  test("a successor counts from the last receive of the worker before it", () => {
    const memory = new ArrayBuffer(JOURNAL_BYTES);
    loopClock.read();
    receive(new Journal(memory), 2);
    later(20);
    const successor = new Journal(memory);
    const slots: number[] = [];
    while (successor.next(request)) slots.push(successor.entry);
    for (const slot of slots) successor.answered(slot);
    successor.measure(slots);
    expect(countOf(latenciesOf(successor))).toBe(2);
    expect(sumSecondsOf(latenciesOf(successor))).toBeGreaterThanOrEqual(0.04);
  });

  test("tells its unanswered requests by slot and cookie", () => {
    const journal = new Journal(new ArrayBuffer(JOURNAL_BYTES));
    const [first, second, third] = receive(journal, 3) as [number, number, number];
    journal.answered(second);
    journal.sending(third);
    const told: number[] = [];
    journal.forEachUnanswered((slot) => told.push(slot));
    expect(told).toEqual([first, third]);
  });
});
