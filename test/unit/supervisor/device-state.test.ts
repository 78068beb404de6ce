/** device-state.ts: every state with every event, written out by hand. A dash is a pair that changes nothing. */
import { describe, expect, test } from "vitest";
import { type DeviceState, EVENTS, STATES, transition } from "../../../src/supervisor/device-state.ts";

type Expected = Record<(typeof EVENTS)[number], string>;

/** A state changes by no event but those that it names itself. */
const NOTHING: Expected = {
  connected: "-",
  "connect-refused": "-",
  "worker-lost": "-",
  "link-lost": "-",
  "links-restored": "-",
  "attempts-spent": "-",
  "deadline-passed": "-",
  "device-ended": "-",
  "detach-requested": "-",
  disconnected: "-",
  "disconnect-refused": "-",
};

const EXPECTED: Record<DeviceState, Expected> = {
  attaching: {
    ...NOTHING,
    connected: "serving: check-links",
    "connect-refused": "detached: release",
  },
  serving: {
    ...NOTHING,
    "worker-lost": "taking-over: begin-failover",
    "link-lost": "reconnecting: begin-failover, escalate",
    "device-ended": "detached: release",
    "detach-requested": "detaching: disconnect",
  },
  "taking-over": {
    ...NOTHING,
    "link-lost": "reconnecting: escalate",
    "links-restored": "serving: report-recovered, check-links",
    "attempts-spent": "stalled: announce-stall",
    "deadline-passed": "failed: report-failed, give-links-up",
    "device-ended": "detached: stop-failover, report-failed, release",
    "detach-requested": "detaching: stop-failover, report-failed, disconnect",
  },
  reconnecting: {
    ...NOTHING,
    "links-restored": "serving: report-recovered, check-links",
    "attempts-spent": "stalled: announce-stall",
    "deadline-passed": "failed: report-failed",
    "device-ended": "detached: stop-failover, report-failed, release",
    "detach-requested": "detaching: stop-failover, report-failed, disconnect",
  },
  stalled: {
    ...NOTHING,
    "link-lost": "stalled: escalate",
    "links-restored": "serving: report-recovered, check-links",
    "deadline-passed": "failed: report-failed, give-links-up",
    "device-ended": "detached: stop-failover, report-failed, release",
    "detach-requested": "detaching: stop-failover, report-failed, disconnect",
  },
  failed: {
    ...NOTHING,
    "links-restored": "serving: announce-revival, check-links",
    "device-ended": "detached: stop-failover, release",
    "detach-requested": "detaching: stop-failover, disconnect",
  },
  detaching: {
    ...NOTHING,
    "device-ended": "detached: release",
    disconnected: "detached: release",
    "disconnect-refused": "serving: check-links",
  },
  detached: NOTHING,
};

describe("transition", () => {
  test("the list names every state and every event", () => {
    expect(Object.keys(EXPECTED).sort()).toEqual([...STATES].sort());
    for (const state of STATES) expect(Object.keys(EXPECTED[state]).sort()).toEqual([...EVENTS].sort());
  });

  for (const state of STATES) {
    for (const event of EVENTS) {
      const expected = EXPECTED[state][event];
      test(`${state}, ${event}: ${expected === "-" ? "ignored" : expected}`, () => {
        const { next, effects } = transition(state, event);
        expect(`${next}: ${effects.join(", ")}`).toBe(expected === "-" ? `${state}: ` : expected);
      });
    }
  }
});
