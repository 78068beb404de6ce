import { afterEach, expect, test, vi } from "vitest";
import { Pump } from "../../../src/serving/pump.ts";
import { warmUp, warmUpLater } from "../../../src/serving/warm-up.ts";
import { FileSource } from "../../../src/source/file-source.ts";
import { until } from "../../helpers/until.ts";

afterEach(() => {
  vi.restoreAllMocks();
});

test("a worker warms up what copies small reads and what sends large ones from the page cache", () => {
  const read = vi.spyOn(FileSource.prototype, "read");
  const extent = vi.spyOn(FileSource.prototype, "extent");
  const pump = new Pump();
  warmUp(pump);
  pump.close();
  const extents = extent.mock.results.filter(({ value }) => value !== undefined);
  expect(read.mock.calls.length).toBeGreaterThanOrEqual(100);
  expect(extents.length).toBeGreaterThanOrEqual(30);
  expect(read.mock.calls.filter(([target]) => target.length > 4096)).toEqual([]);
});

test("a worker that an attach waits for warms up afterwards, between other work", async () => {
  const read = vi.spyOn(FileSource.prototype, "read");
  const close = vi.spyOn(FileSource.prototype, "close");
  const pump = new Pump();
  warmUpLater(pump, 0);
  expect(read).not.toHaveBeenCalled();
  await until("it reads", () => read.mock.calls.length > 0);
  let turns = 0;
  while (close.mock.calls.length === 0) {
    await new Promise((resolve) => setImmediate(resolve));
    turns += 1;
  }
  pump.close();
  expect(turns).toBeGreaterThanOrEqual(10);
  expect(read.mock.calls.length).toBeGreaterThanOrEqual(100);
});
