/** policy/backoff.ts: how fast dead workers are replaced. */
import { describe, expect, test } from "vitest";
import {
  MAX_RESTART_DELAY_MS,
  MIN_DELAY_MS,
  RESTART_BUDGET,
  RestartBackoff,
  SHORT_LIFE_MS,
  type WorkerDeath,
} from "../../../../src/pool/policy/backoff.ts";

/** The largest random number, nearly: delays have their nominal length. */
const almostOne = (): number => 1 - Number.EPSILON;

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

  test("replaces workers after a few early deaths at once, then after growing delays up to a limit", () => {
    expect(delays(new RestartBackoff(), Array(12).fill({}))).toEqual([
      ...[0, 0, 0],
      ...[200, 400, 800, 1600, 3200, 6400],
      ...[MAX_RESTART_DELAY_MS, MAX_RESTART_DELAY_MS, MAX_RESTART_DELAY_MS],
    ]);
  });

  test("counts a worker that got ready and crashed like one that never started", () => {
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

  test("does not count deaths that are blamed on a link", () => {
    expect(delays(new RestartBackoff(), Array(20).fill({ blamedOnLink: true }))).toEqual(Array(20).fill(0));
  });

  test("counts from zero after a quiet time", () => {
    const backoff = new RestartBackoff();
    delays(backoff, Array(9).fill({}));
    backoff.died({ ...early, nowMs: 2_000_000 });
    expect(backoff.delayMs(almostOne)).toBe(0);
  });
});
