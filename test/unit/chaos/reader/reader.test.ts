/**
 * The reader process as it is shipped, on ordinary files: one that is the image, one with a wrong byte, one too short.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Latencies } from "../../../../src/chaos/latencies.ts";
import { Reader } from "../../../../src/chaos/reader/reader.ts";
import { monotonicMs, type ReaderStart, type Span } from "../../../../src/chaos/reader/reader-protocol.ts";
import { until } from "../../../helpers/until.ts";

const PROGRAM = fileURLToPath(new URL("../../../../dist/src/chaos/reader/reader-main.js", import.meta.url));
const SIZE = 3 * (1 << 20) + 1000;
const PADDED = Math.ceil(SIZE / 4096) * 4096;
const DEADLINE_MS = 20_000;

vi.setConfig({ testTimeout: 60_000 });

let directory: string;
let image: string;
let device: string;
let spans: Span[];
let troubles: string[];
let reader: Reader | undefined;
const never = new AbortController().signal;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "reader-"));
  image = join(directory, "image");
  device = join(directory, "device");
  const bytes = Uint8Array.from({ length: SIZE }, (_, at) => (at ^ (at >> 9)) & 0xff);
  writeFileSync(image, bytes);
  writeFileSync(device, bytes);
  truncateSync(device, PADDED);
  spans = [];
  troubles = [];
});
afterEach(() => {
  reader?.kill();
  rmSync(directory, { recursive: true });
});

async function start(changes: Partial<ReaderStart> = {}): Promise<Reader> {
  const wanted: ReaderStart = {
    type: "start",
    device,
    image,
    imageBytes: SIZE,
    deviceBytes: PADDED,
    blockSizeBytes: 4096,
    depth: 4,
    largeSlots: 1,
    seed: 1,
    beginMs: monotonicMs(),
    spanMs: 20,
    direct: false,
    ...changes,
  };
  const events = {
    span: (span: Span) => void spans.push(span),
    trouble: (what: string) => void troubles.push(what),
  };
  reader = new Reader(wanted, events, PROGRAM);
  await reader.reading(never);
  return reader;
}

test("a device that is its image: reads, spans and totals, no trouble", async () => {
  const reading = await start();
  await reading.open(never);
  const settled = await reading.settle(DEADLINE_MS, never);
  expect(settled.reads).toBeGreaterThanOrEqual(4);
  expect(settled.longestMs).toBeGreaterThan(0);
  await until("spans came", () => spans.length >= 2);
  expect(await reading.stop(DEADLINE_MS)).toBe(true);
  expect(troubles).toEqual([]);
  expect(reading.totals).toMatchObject({ wrong: 0, errors: 0 });
  const counted = spans.reduce((sum, span) => sum + Latencies.fromSparse(span.counts, 0).count, 0);
  expect(counted).toBe(reading.totals.reads);
  expect(spans.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(reading.totals.bytes);
  expect(spans.map(({ index }) => index)).toEqual([...new Set(spans.map(({ index }) => index))]);
});

test("settling waits for reads that were under way before and as many after", async () => {
  const reading = await start({ depth: 1, largeSlots: 0 });
  for (let round = 0; round < 5; round += 1) {
    await reading.open(never);
    expect((await reading.settle(DEADLINE_MS, never)).reads).toBeGreaterThanOrEqual(1);
  }
  expect(await reading.stop(DEADLINE_MS)).toBe(true);
});

test("one wrong byte anywhere is found by a pass over the device, and told with its place", async () => {
  const bytes = Uint8Array.from({ length: SIZE }, (_, at) => (at ^ (at >> 9)) & 0xff);
  bytes[2_345_678] = (bytes[2_345_678] ?? 0) ^ 0xff;
  writeFileSync(device, bytes);
  truncateSync(device, PADDED);
  const reading = await start();
  await until("the wrong byte was found", () => troubles.length > 0);
  expect(await reading.stop(DEADLINE_MS)).toBe(true);
  expect(troubles[0]).toMatch(
    /^wrong bytes in a read of \d+ bytes at \d+: 1 differ from the image, the first at 2345678 \(0x[0-9a-f]{2} instead of 0x[0-9a-f]{2}\)$/,
  );
  expect(reading.totals.wrong).toBeGreaterThan(0);
  expect(reading.totals.errors).toBe(0);
});

test("a read that brings too little is an error", async () => {
  truncateSync(device, 1 << 20);
  const reading = await start();
  await until("the short read was found", () => troubles.length > 0);
  expect(await reading.stop(DEADLINE_MS)).toBe(true);
  expect(troubles[0]).toMatch(/^a read of \d+ bytes at \d+ failed: only \d+ of \d+ bytes came$/);
  expect(reading.totals.errors).toBeGreaterThan(0);
});

test("a device that cannot be opened is trouble in one line", async () => {
  await expect(start({ device: join(directory, "none") })).rejects.toThrow("cannot go on: the reader ended");
  expect(troubles).toEqual([
    expect.stringMatching(/^the reader cannot begin: ENOENT: no such file or directory, open '.*none'$/),
  ]);
});

test("a reader that is killed by somebody else is trouble, and nobody waits for it for ever", async () => {
  const reading = await start();
  const settled = reading.settle(DEADLINE_MS, never);
  process.kill(reading.pid ?? 0, "SIGKILL");
  await expect(settled).rejects.toThrow("cannot go on: the reader ended");
  expect(troubles).toEqual(["the reader ended by itself: SIGKILL"]);
});

test("killed on purpose it is no trouble, and says so", async () => {
  const reading = await start();
  reading.kill();
  expect(await reading.stop(DEADLINE_MS)).toBe(false);
  expect(troubles).toEqual([]);
});
