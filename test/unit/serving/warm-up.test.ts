import { afterEach, expect, test, vi } from "vitest";
import { Pump } from "../../../src/serving/pump.ts";
import { warmUp } from "../../../src/serving/warm-up.ts";
import { FileSource } from "../../../src/source/file-source.ts";

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
