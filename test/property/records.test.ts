/**
 * Records with any content: reading them never throws, hangs or leaves the directory, and every record that is accepted
 * has valid values.
 */
import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { MAX_CONNECTIONS } from "../../src/limits.ts";
import { settingsOf } from "../../src/manager/records/record.ts";
import { RecordStore } from "../../src/manager/records/record-store.ts";
import { newRecord } from "../helpers/new-record.ts";

let base: string;
let directory: string;
let store: RecordStore;
let good: Record<string, unknown>;

const RECORD = newRecord("a", {
  image: { type: "module", path: "/m.js", options: { deep: [{}] }, sizeBytes: 4096, identity: null },
});

beforeAll(async () => {
  base = mkdtempSync(join(tmpdir(), "erofs-nbd-records-"));
  directory = join(base, "devices");
  mkdirSync(directory);
  store = new RecordStore(directory);
  await store.write(RECORD);
  good = JSON.parse(readFileSync(join(directory, "a.json"), "utf8")) as Record<string, unknown>;
});
beforeEach(() => {
  rmSync(directory, { recursive: true });
  mkdirSync(directory);
});
afterAll(() => rmSync(base, { recursive: true }));

/** Loads a record with that content. Every file must be returned exactly once. */
function load(content: string | Uint8Array): ReturnType<RecordStore["load"]> {
  writeFileSync(join(directory, "a.json"), content);
  const loaded = store.load();
  expect(loaded.records.length + loaded.stale.length + loaded.unreadable.length).toBe(1);
  for (const record of loaded.records) {
    const { connections, sizeBytes, deadTimeoutSeconds } = settingsOf(record);
    expect(Number.isInteger(connections) && connections >= 1 && connections <= MAX_CONNECTIONS).toBe(true);
    expect(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0 && deadTimeoutSeconds >= 0).toBe(true);
    expect(record.identifier).toBe("a");
  }
  return loaded;
}

describe("a record", () => {
  test("of a source module is loaded as it was written", () => {
    expect(load(JSON.stringify(good)).records).toMatchObject([RECORD]);
  });

  test("of any bytes or any JSON is not accepted", () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 500 }), fc.json({ maxDepth: 5 })), (content) => {
        expect(load(content).records).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  test("with any field at any depth replaced by any value", () => {
    const values = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom(-1, 0.5, 1e308, 2 ** 53, 2 ** 31, "", "../../etc", null),
    );
    fc.assert(
      fc.property(fc.nat(), values, (at, value) => {
        const copy = structuredClone(good);
        const places = placesOf(copy);
        const [holder, name] = places[at % places.length] as [Record<string, unknown>, string];
        holder[name] = value;
        load(JSON.stringify(copy));
      }),
      { numRuns: 500 },
    );
  });

  test("cut off anywhere is not accepted; with one bit flipped it is valid or refused", () => {
    const text = Buffer.from(JSON.stringify(good));
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.nat(7), (at, bit) => {
        expect(load(text.subarray(0, at)).records).toEqual([]);
        const turned = Buffer.from(text);
        turned[at] = (turned[at] as number) ^ (1 << bit);
        load(turned);
      }),
      { numRuns: 200 },
    );
  });

  test("that is nested deeply, or huge, is refused at once", () => {
    const deep = `${'{"version":'.repeat(200_000)}1${"}".repeat(200_000)}`;
    expect(load(deep).unreadable).toHaveLength(1);
    expect(
      load(JSON.stringify({ ...good, image: { ...RECORD.image, options: "x".repeat(2 << 20) } })).unreadable,
    ).toHaveLength(1);
    const path = join(directory, "a.json");
    writeFileSync(path, "");
    // A sparse file.
    truncateSync(path, 2 ** 40);
    expect(store.load().unreadable).toEqual([path]);
  });

  test("that is a link, a FIFO or a directory is refused", () => {
    const elsewhere = join(base, "elsewhere.json");
    writeFileSync(elsewhere, JSON.stringify(good));
    symlinkSync(elsewhere, join(directory, "a.json"));
    symlinkSync("/dev/zero", join(directory, "b.json"));
    execFileSync("mkfifo", [join(directory, "c.json")]);
    mkdirSync(join(directory, "d.json"));
    symlinkSync(elsewhere, join(directory, "e.json.new"));
    const { records, unreadable } = store.load();
    expect(records).toEqual([]);
    expect(unreadable.sort()).toEqual(["a", "b", "c", "d"].map((name) => join(directory, `${name}.json`)));
    expect(readFileSync(elsewhere, "utf8")).toBe(JSON.stringify(good));
  });

  test("is not written through a link at its path", async () => {
    const elsewhere = join(base, "precious");
    writeFileSync(elsewhere, "precious");
    symlinkSync(elsewhere, join(directory, "a.json.new"));
    symlinkSync(elsewhere, join(directory, "a.json"));
    await store.write(RECORD);
    expect(store.load().records).toMatchObject([RECORD]);
    expect(readFileSync(elsewhere, "utf8")).toBe("precious");
  });
});

/** Every field in a value, at any depth, as its object and its name. */
function placesOf(value: object): Array<[Record<string, unknown>, string]> {
  return Object.entries(value).flatMap(([name, inner]) => [
    [value as Record<string, unknown>, name] as [Record<string, unknown>, string],
    ...(typeof inner === "object" && inner !== null ? placesOf(inner) : []),
  ]);
}
