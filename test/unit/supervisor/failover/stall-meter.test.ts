/**
 * stall-meter.ts with a kernel that answers from a list. Points in time are compared with each other, never with a
 * clock.
 */
import { describe, expect, test } from "vitest";
import { StallMeter } from "../../../../src/supervisor/failover/stall-meter.ts";

const NEVER = new AbortController().signal;

/** Answers with `numbers` in turn, then with the last one forever; notes when each was asked for. */
function kernel(...numbers: readonly number[]): { ask: () => number; askedAt: number[] } {
  const askedAt: number[] = [];
  const ask = (): number => {
    const number = numbers[Math.min(askedAt.length, numbers.length - 1)];
    askedAt.push(performance.now());
    return number ?? 0;
  };
  return { ask, askedAt };
}

describe("StallMeter", () => {
  test("nothing in flight: reads stood still until now", async () => {
    const { ask, askedAt } = kernel(0);
    const meter = new StallMeter(ask);
    expect(meter.strandedReads).toBe(0);
    const before = meter.elapsedMs;
    const stoodStillMs = await meter.stoodStillMs(1000, NEVER);
    expect(stoodStillMs).toBeGreaterThanOrEqual(before);
    expect(stoodStillMs).toBeLessThanOrEqual(meter.elapsedMs);
    expect(askedAt).toHaveLength(1);
  });

  test("the last fall below the stranded number counts, not later rises", async () => {
    const { ask, askedAt } = kernel(3, 5, 4, 2, 6, 0, 9);
    const meter = new StallMeter(ask);
    const startedAt = askedAt[0] ?? 0;
    expect(meter.strandedReads).toBe(3);
    const stoodStillMs = await meter.stoodStillMs(60_000, NEVER);
    // It ended with the first zero: the sixth answer.
    expect(askedAt).toHaveLength(6);
    expect(stoodStillMs).toBeGreaterThanOrEqual((askedAt[5] ?? 0) - startedAt);
    expect(stoodStillMs).toBeLessThanOrEqual(meter.elapsedMs);
  });

  test("under a load that never lets the number reach zero it gives up, and the last fall counts", async () => {
    const { ask, askedAt } = kernel(4, 4, 2, 3);
    const meter = new StallMeter(ask);
    const startedAt = askedAt[0] ?? 0;
    const stoodStillMs = await meter.stoodStillMs(-1400, NEVER);
    expect(askedAt.length).toBeGreaterThan(3);
    expect(stoodStillMs).toBeGreaterThanOrEqual((askedAt[2] ?? 0) - startedAt);
    expect(stoodStillMs).toBeLessThan((askedAt[3] ?? 0) - startedAt);
  });

  test("no fall at all: the time at which links were restored", async () => {
    const { ask, askedAt } = kernel(2);
    const meter = new StallMeter(ask);
    const restoredMs = meter.elapsedMs;
    const stoodStillMs = await meter.stoodStillMs(-1450, NEVER);
    expect(askedAt.length).toBeGreaterThan(1);
    expect(stoodStillMs).toBeGreaterThanOrEqual(restoredMs);
    expect(stoodStillMs).toBeLessThan((askedAt[1] ?? 0) - (askedAt[0] ?? 0));
  });

  test("the signal ends the measuring at once, also when it was aborted before", async () => {
    const { ask, askedAt } = kernel(2);
    const stop = new AbortController();
    const measured = new StallMeter(ask).stoodStillMs(60_000, stop.signal);
    stop.abort();
    expect(await measured).toBeGreaterThanOrEqual(0);
    const asked = askedAt.length;
    await new StallMeter(ask).stoodStillMs(60_000, stop.signal);
    expect(askedAt).toHaveLength(asked + 1);
  });
});
