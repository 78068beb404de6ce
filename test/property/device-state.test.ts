/** Random walks through the device's state table: what must hold for any events in any order. */
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  type DeviceEffect,
  type DeviceState,
  EVENTS,
  STATES,
  transition,
} from "../../src/supervisor/device-state.ts";

interface Step {
  readonly before: DeviceState;
  readonly after: DeviceState;
  readonly effects: readonly DeviceEffect[];
}

const walks = fc.array(fc.constantFrom(...EVENTS), { maxLength: 60 });

function walk(events: readonly (typeof EVENTS)[number][]): Step[] {
  let state: DeviceState = "attaching";
  return events.map((event) => {
    const before = state;
    const { next, effects } = transition(before, event);
    state = next;
    return { before, after: next, effects };
  });
}

const effectsOf = (steps: readonly Step[]): DeviceEffect[] => steps.flatMap(({ effects }) => [...effects]);

test("detached is final, and everything is released exactly once on the way there", () => {
  fc.assert(
    fc.property(walks, (events) => {
      const steps = walk(events);
      for (const { before, after } of steps) if (before === "detached") expect(after).toBe("detached");
      const releases = steps.filter(({ effects }) => effects.includes("release"));
      const ends = steps.filter(({ before, after }) => before !== "detached" && after === "detached");
      expect(releases).toEqual(ends);
      expect(releases.length).toBeLessThanOrEqual(1);
      if (steps.at(-1)?.after === "detached") expect(releases).toHaveLength(1);
    }),
    { numRuns: 2000 },
  );
});

test("every failover that begins is reported exactly once before the next begins or the device is released", () => {
  fc.assert(
    fc.property(walks, (events) => {
      let open = 0;
      for (const effect of effectsOf(walk(events))) {
        if (effect === "begin-failover") open += 1;
        if (effect === "report-recovered" || effect === "report-failed") open -= 1;
        if (effect === "release" || effect === "disconnect") expect(open).toBe(0);
        expect([0, 1]).toContain(open);
      }
    }),
    { numRuns: 2000 },
  );
});

test("no failover is left running: it restores the links, or is stopped before the device ends", () => {
  fc.assert(
    fc.property(walks, (events) => {
      let running = false;
      for (const effect of effectsOf(walk(events))) {
        if (effect === "begin-failover") {
          expect(running).toBe(false);
          running = true;
        }
        if (["report-recovered", "announce-revival", "stop-failover"].includes(effect)) running = false;
        if (effect === "disconnect" || effect === "release") expect(running).toBe(false);
      }
    }),
    { numRuns: 2000 },
  );
});

test("the links are checked at each return to serving, as one may have died while deaths were ignored", () => {
  fc.assert(
    fc.property(walks, (events) => {
      for (const { before, after, effects } of walk(events))
        if (before !== "serving" && after === "serving") expect(effects.at(-1)).toBe("check-links");
    }),
    { numRuns: 2000 },
  );
});

test("every state can be reached, and from every state the device can be ended", () => {
  const reached = new Set<DeviceState>(["attaching"]);
  for (const state of reached) for (const event of EVENTS) reached.add(transition(state, event).next);
  expect([...reached].sort()).toEqual([...STATES].sort());
  for (const start of STATES) {
    const from = new Set<DeviceState>([start]);
    for (const state of from) for (const event of EVENTS) from.add(transition(state, event).next);
    expect(from).toContain("detached");
  }
});
