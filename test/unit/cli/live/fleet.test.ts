/** The live table: its rates, events, figures and shortened texts. */
import { expect, test } from "vitest";
import { age, count, latency, shorten, span, width } from "../../../../src/cli/live/cells.ts";
import { Fleet } from "../../../../src/cli/live/fleet.ts";
import type { DeviceStatus } from "../../../../src/control/protocol.ts";
import { deviceStatus } from "../fake-manager.ts";
import { device } from "./sample.ts";

test("rates are those between two answers, and never negative after a restart of the manager", () => {
  const fleet = new Fleet();
  const at = (requests: number): { devices: DeviceStatus[]; notes: string[] } => ({
    devices: [device(0, { counters: { ...device(0).counters, requests, readBytes: requests * 4096 } })],
    notes: [],
  });
  const rate = (): number | null | undefined => fleet.rows(0, 9)[0]?.requestsPerSecond;
  fleet.heard(at(100), 0);
  expect(rate()).toBeNull();
  fleet.heard(at(2100), 2000);
  expect(rate()).toBe(1000);
  // Too near to tell anything.
  fleet.heard(at(2101), 2100);
  expect(rate()).toBe(1000);
  fleet.heard(at(5), 4000);
  expect(rate()).toBe(0);
});

test("a device that is already stalled has its reason shown once, like an event", () => {
  const fleet = new Fleet();
  const answer = {
    devices: [deviceStatus({ state: "stalled", stalledReason: "no worker is ready" })],
    notes: [],
  };
  fleet.heard(answer, 0);
  fleet.heard(answer, 1000);
  expect(fleet.events.map((line) => line.slice(10))).toEqual(["nbd0  stalled: no worker is ready"]);
});

test("figures and texts are shortened to few columns", () => {
  expect([0, 0.25, 7.46, 99.6, 1234, 12_345, 4e6].map(count)).toEqual([
    "0",
    "0.3",
    "7.5",
    "100",
    "1234",
    "12.3k",
    "4.0M",
  ]);
  expect([0.094, 1.66, 120.4, 12_000].map(latency)).toEqual(["0.09", "1.7", "120", "12s"]);
  expect([14.2, 1180, 75_000].map(span)).toEqual(["14ms", "1.2s", "75s"]);
  expect([-5, 59_999, 60_000, 7.2e6, 3e8].map(age)).toEqual(["0s", "59s", "1m", "2h", "3d"]);
  expect(shorten("abcdefghij", 6, "end")).toBe("abcde…");
  expect(shorten("abcdefghij", 6, "start")).toBe("…fghij");
  expect(shorten("abcdefghij", 7, "middle")).toBe("ab…ghij");
  expect(shorten("日本語日本語", 7, "end")).toBe("日本語…");
  expect(width("e\u0301日")).toBe(3);
});
