/**
 * What must hold for every chaos run, whatever its numbers: its plan, its ranges, its arithmetic.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Latencies, quantileOf } from "../../src/chaos/latencies.ts";
import { ReadPattern } from "../../src/chaos/reader/read-pattern.ts";
import { FAULT_KINDS, MAX_SEED, planFaults, randomFrom } from "../../src/chaos/schedule.ts";

const plans = fc.record({
  seed: fc.integer({ min: 0, max: MAX_SEED }),
  kills: fc.integer({ min: 1, max: 200 }),
  intervalMs: fc.integer({ min: 0, max: 10_000 }),
  what: fc.uniqueArray(fc.constantFrom(...FAULT_KINDS), { minLength: 1 }),
});

describe("planFaults", () => {
  test("the same request is the same plan, with as many faults as were asked for", () => {
    fc.assert(
      fc.property(plans, (request) => {
        const plan = planFaults(request);
        expect(plan).toHaveLength(request.kills);
        expect(planFaults({ ...request })).toEqual(plan);
      }),
    );
  });

  test("only kinds that were asked for; each before any again; counts differ by one at most", () => {
    fc.assert(
      fc.property(plans, (request) => {
        const kinds = planFaults(request).map(({ kind }) => kind);
        const counts = request.what.map((kind) => kinds.filter((one) => one === kind).length);
        expect(counts.reduce((a, b) => a + b)).toBe(request.kills);
        expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
        for (let at = 0; at + request.what.length <= kinds.length; at += request.what.length)
          expect(new Set(kinds.slice(at, at + request.what.length))).toEqual(new Set(request.what));
      }),
    );
  });

  test("waits lie around the interval, picks from 0 to 1", () => {
    fc.assert(
      fc.property(plans, (request) => {
        for (const { waitMs, pick } of planFaults(request)) {
          expect(waitMs).toBeGreaterThanOrEqual(Math.floor(request.intervalMs * 0.5));
          expect(waitMs).toBeLessThanOrEqual(Math.ceil(request.intervalMs * 1.5));
          expect(pick >= 0 && pick < 1).toBe(true);
        }
      }),
    );
  });
});

describe("ReadPattern", () => {
  const devices = fc.record({
    blocks: fc.integer({ min: 1, max: 100_000 }),
    blockSizeBytes: fc.constantFrom(512, 1024, 4096, 65_536),
    depth: fc.integer({ min: 1, max: 8 }),
    large: fc.integer({ min: 0, max: 8 }),
    seed: fc.integer({ min: 0, max: MAX_SEED }),
  });

  test("every range lies within the device, begins and ends at whole blocks, and is no longer than the buffers", () => {
    fc.assert(
      fc.property(devices, ({ blocks, blockSizeBytes, depth, large, seed }) => {
        const sizeBytes = blocks * blockSizeBytes;
        const pattern = new ReadPattern(sizeBytes, blockSizeBytes, large, randomFrom(seed));
        for (let at = 0; at < 200; at += 1) {
          const { offsetBytes, lengthBytes } = pattern.next(at % depth);
          expect(lengthBytes).toBeGreaterThan(0);
          expect(lengthBytes).toBeLessThanOrEqual(pattern.longestBytes);
          expect(offsetBytes + lengthBytes).toBeLessThanOrEqual(sizeBytes);
          expect(offsetBytes % pattern.unitBytes).toBe(0);
          expect(lengthBytes % blockSizeBytes).toBe(0);
        }
      }),
    );
  });

  test("large reads pass over every byte", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), (blocks) => {
        const pattern = new ReadPattern(blocks * 4096, 4096, 1, () => 0);
        let end = 0;
        do {
          const { offsetBytes, lengthBytes } = pattern.next(0);
          expect(offsetBytes).toBe(end);
          end = offsetBytes + lengthBytes;
        } while (end < blocks * 4096);
        expect(end).toBe(blocks * 4096);
        expect(pattern.next(0).offsetBytes).toBe(0);
      }),
    );
  });
});

describe("Latencies", () => {
  const times = fc.array(fc.double({ min: 0.001, max: 90_000, noNaN: true }), {
    minLength: 1,
    maxLength: 300,
  });

  test("quantiles are within two percent, or a microsecond, of the exact ones", () => {
    fc.assert(
      fc.property(times, fc.double({ min: 0, max: 1, noNaN: true }), (all, share) => {
        const counted = new Latencies();
        for (const ms of all) counted.add(ms);
        const exact = quantileOf(all, share);
        expect(Math.abs(counted.quantile(share) - exact)).toBeLessThanOrEqual(Math.max(0.001, exact * 0.02));
      }),
    );
  });

  test("sending in parts and adding up changes nothing", () => {
    fc.assert(
      fc.property(times, times, (one, other) => {
        const [whole, first, second] = [new Latencies(), new Latencies(), new Latencies()];
        for (const ms of one) first.add(ms);
        for (const ms of other) second.add(ms);
        for (const ms of [...one, ...other]) whole.add(ms);
        const sum = Latencies.fromSparse(first.toSparse(), first.longestMs);
        sum.merge(Latencies.fromSparse(second.toSparse(), second.longestMs));
        expect([sum.count, sum.longestMs, sum.toSparse()]).toEqual([
          whole.count,
          whole.longestMs,
          whole.toSparse(),
        ]);
      }),
    );
  });
});
