/** device-state.ts: every state with every event, written out by hand. A dash is a pair that changes nothing. */
import { describe, expect, test } from "vitest";
import { type DeviceState, EVENTS, STATES, transition } from "../../../src/supervisor/device-state.ts";

type Expected = Record<(typeof EVENTS)[number], string>;

const EXPECTED: Record<DeviceState, Expected> = {
  attaching: {
    connected: "serving: check-links",
    "connect-refused": "detached: release",
    "worker-lost": "-",
    "link-lost": "-",
    "links-restored": "-",
    "attempts-spent": "-",
    "deadline-passed": "-",
    "device-ended": "-",
    "detach-requested": "-",
    disconnected: "-",
    "disconnect-refused": "-",
  },
  serving: {
    connected: "-",
    "connect-refused": "-",
    "worker-lost": "taking-over: begin-failover",
    "link-lost": "reconnecting: begin-failover, escalate",
    "links-restored": "-",
    "attempts-spent": "-",
    "deadline-passed": "-",
    "device-ended": "detached: release",
    "detach-requested": "detaching: disconnect",
    disconnected: "-",
    "disconnect-refused": "-",
  },
  "taking-over": {
    connected: "-",
    "connect-refused": "-",
    "worker-lost": "-",
    "link-lost": "reconnecting: escalate",
    "links-restored": "serving: report-recovered, check-links",
    "attempts-spent": "stalled: announce-stall",
    "deadline-passed": "failed: report-failed, give-links-up",
    "device-ended": "detached: stop-failover, report-failed, release",
    "detach-requested": "detaching: stop-failover, report-failed, disconnect",
    disconnected: "-",
    "disconnect-refused": "-",
  },
  reconnecting: {
    connected: "-",
    "connect-refused": "-",
    "worker-lost": "-",
    "link-lost": "-",
    "links-restored": "serving: report-recovered, check-links",
    "attempts-spent": "stalled: announce-stall",
    "deadline-passed": "failed: report-failed",
    "device-ended": "detached: stop-failover, report-failed, release",
    "detach-requested": "detaching: stop-failover, report-failed, disconnect",
    disconnected: "-",
    "disconnect-refused": "-",
  },
  stalled: {
    connected: "-",
    "connect-refused": "-",
    "worker-lost": "-",
    "link-lost": "stalled: escalate",
    "links-restored": "serving: report-recovered, check-links",
    "attempts-spent": "-",
    "deadline-passed": "failed: report-failed, give-links-up",
    "device-ended": "detached: stop-failover, report-failed, release",
    "detach-requested": "detaching: stop-failover, report-failed, disconnect",
    disconnected: "-",
    "disconnect-refused": "-",
  },
  failed: {
    connected: "-",
    "connect-refused": "-",
    "worker-lost": "-",
    "link-lost": "-",
    "links-restored": "serving: announce-revival, check-links",
    "attempts-spent": "-",
    "deadline-passed": "-",
    "device-ended": "detached: stop-failover, release",
    "detach-requested": "detaching: stop-failover, disconnect",
    disconnected: "-",
    "disconnect-refused": "-",
  },
  detaching: {
    connected: "-",
    "connect-refused": "-",
    "worker-lost": "-",
    "link-lost": "-",
    "links-restored": "-",
    "attempts-spent": "-",
    "deadline-passed": "-",
    "device-ended": "detached: release",
    "detach-requested": "-",
    disconnected: "detached: release",
    "disconnect-refused": "serving: check-links",
  },
  detached: {
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
  },
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
