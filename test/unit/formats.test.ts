/**
 * What a former version left or sent, as test/fixtures/formats has it: this version reads all of it, and writes what
 * that version reads. An upgrade needs the one, and its undoing the other.
 *
 * The fixture is never edited; see capture.mjs beside it. Upgrades of whole processes: former-version.test.ts among the
 * kernel tests.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { Journal } from "../../src/journal/journal.ts";
import { JOURNAL_BYTES } from "../../src/journal/layout.ts";
import { settle } from "../../src/journal/recovery.ts";
import type { DeviceRecord } from "../../src/manager/records/record.ts";
import { RecordStore } from "../../src/manager/records/record-store.ts";
import { newRequest } from "../../src/nbd/wire.ts";
import { isFromWorker } from "../../src/worker-protocol/from-worker.ts";
import { newRecord } from "../helpers/new-record.ts";

type Json = Record<string, unknown>;
interface Formats {
  readonly records: Readonly<Record<string, Json>>;
  /** Words that are not zero, by index. */
  readonly journals: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly messages: Readonly<Record<"toWorker" | "fromWorker", Readonly<Record<string, Json>>>>;
}
const fixture = new URL("../fixtures/formats/formats-1.json", import.meta.url);
const { records, journals, messages } = JSON.parse(readFileSync(fixture, "utf8")) as Formats;

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-formats-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const store = new RecordStore(directory);
const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
const path = (name: string): string => join(directory, `${name}.json`);

/** A record of that version, as this one loads it. */
function loaded(name: string): DeviceRecord | undefined {
  writeFileSync(path(name), JSON.stringify({ ...records[name], bootId }));
  return store.load().records.find(({ identifier }) => identifier === name);
}

/** The fields of a value, at any depth, with their types. Lists count as a whole. */
function shapeOf(value: unknown, at = ""): Record<string, string> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return { [at]: value === null ? "null" : typeof value };
  return Object.assign({}, ...Object.entries(value).map(([name, one]) => shapeOf(one, `${at}.${name}`)));
}

describe("a record of a former version", () => {
  test.each(Object.keys(records))("is loaded with all that it says: %s", (name) => {
    expect(loaded(name)).toMatchObject({ ...records[name], bootId });
  });

  test.each(Object.keys(records))("has no field that a record of this version lacks: %s", async (name) => {
    const { version: _, bootId: __, manager: ___, ...own } = loaded(name) as DeviceRecord;
    await store.write(newRecord(name, own));
    const written = JSON.parse(readFileSync(path(name), "utf8")) as Json;
    expect(shapeOf(written)).toMatchObject(shapeOf(records[name]));
  });

  test("and one of a later version is left alone, and said to be of no known version", () => {
    const later = { ...records["file"], identifier: "later", version: 2, bootId };
    writeFileSync(path("later"), JSON.stringify(later));
    expect(store.load().unreadable).toContain(path("later"));
    rmSync(path("later"));
  });
});

/** That version's journal in memory. */
function journalOf(name: string): Journal {
  const memory = new ArrayBuffer(Math.ceil(JOURNAL_BYTES / 8) * 8);
  const words = new Int32Array(memory);
  for (const [at, word] of Object.entries(journals[name] ?? {})) words[Number(at)] = word;
  return new Journal(memory);
}

describe("a journal of a former version", () => {
  test.each<[string, received: number[], sending: number[], batch: object]>([
    ["three requests", [0, 1, 2], [], { phase: "idle" }],
    ["one answered", [1, 2], [], { phase: "idle" }],
    ["two in one send", [2], [0, 1], { phase: "idle" }],
    ["filling the pipe", [1, 2], [0], { phase: "filling", committedBytes: 0, totalBytes: 4112 }],
    ["in the pipe", [1, 2], [0], { phase: "filled", committedBytes: 4112, totalBytes: 4112 }],
  ])("says the same: %s", (name, received, sending, batch) => {
    const journal = journalOf(name);
    expect([journal.entriesIn("received"), journal.entriesIn("sending")]).toEqual([received, sending]);
    expect(journal.batch).toEqual(batch);
    const request = newRequest();
    for (const entry of [...received, ...sending]) {
      journal.requestIn(entry, request);
      expect(request).toMatchObject({ offsetBytes: entry * 4096, lengthBytes: 4096, cookieLow: entry + 1 });
    }
  });

  test.each<[string, unanswered: number, freshPipe: boolean]>([
    ["three requests", 3, true],
    ["one answered", 2, true],
    // Not sent: both are answered again.
    ["two in one send", 3, true],
    ["filling the pipe", 3, true],
    ["in the pipe", 2, false],
  ])("is settled: %s", async (name, unanswered, freshPipe) => {
    const witness = { pipeBytes: () => 4112, counted: false, sample: () => undefined };
    expect(await settle(journalOf(name), witness, 100)).toMatchObject({ safe: true, unanswered, freshPipe });
  });
});

describe("messages of a former version", () => {
  test.each(Object.entries(messages.fromWorker))("a worker's %s is accepted", (_, message) => {
    expect(isFromWorker(message)).toBe(true);
  });

  test("a worker's message that is not known is not accepted", () => {
    expect(isFromWorker({ type: "later", link: 1 })).toBe(false);
  });
});
