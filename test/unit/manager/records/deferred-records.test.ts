/** deferred-records.ts: records are written when no reads wait, or after a second. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { DeferredRecords } from "../../../../src/manager/records/deferred-records.ts";
import type { ManagedDevice } from "../../../../src/supervisor/managed-device.ts";

const [one, two] = ["one", "two"].map((name) => ({ name }) as unknown as ManagedDevice) as [
  ManagedDevice,
  ManagedDevice,
];
let isBusy: boolean;
let written: ManagedDevice[];
let records: DeferredRecords;

beforeEach(() => {
  vi.useFakeTimers();
  isBusy = false;
  written = [];
  records = new DeferredRecords({
    isBusy: () => isBusy,
    write: async (device) => {
      written.push(device);
    },
  });
});
afterEach(() => vi.useRealTimers());

describe("a record that is out of date", () => {
  test("is written at once if no reads wait", () => {
    records.note(one);
    expect(written).toEqual([one]);
  });

  test("waits while reads do, and is written once, together with the others", () => {
    isBusy = true;
    for (const device of [one, two, one]) records.note(device);
    expect(written).toEqual([]);
    isBusy = false;
    records.look();
    expect(written).toEqual([one, two]);
    vi.advanceTimersByTime(10_000);
    expect(written).toHaveLength(2);
  });

  test("waits a second at most, for a device that cannot recover", () => {
    isBusy = true;
    records.note(one);
    vi.advanceTimersByTime(1000);
    expect(written).toEqual([one]);
  });

  test("is written when a manager ends", async () => {
    isBusy = true;
    records.note(one);
    await records.write();
    expect(written).toEqual([one]);
  });
});
