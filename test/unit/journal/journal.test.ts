/** journal.ts: slots around the ring, inherited ones, answers in any order, a full ring, and what lands uncounted. */
import { describe, expect, test } from "vitest";
import { Journal } from "../../../src/journal/journal.ts";
import { ENTRIES, JOURNAL_BYTES } from "../../../src/journal/layout.ts";
import { NbdProtocolError } from "../../../src/nbd/protocol-error.ts";
import { newRequest, REQUEST_BYTES } from "../../../src/nbd/wire.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";

const request = newRequest();
const memoryOf = (): ArrayBuffer => new ArrayBuffer(JOURNAL_BYTES);

/** Lets requests land as recv(2) does, without counting them. Returns the bytes. */
function land(journal: Journal, cookies: readonly number[]): number {
  const bytes = Buffer.concat(
    cookies.map((cookie) => requestHeader(0, 0, BigInt(cookie), BigInt(cookie) * 512n, 512)),
  );
  if (bytes.length > journal.space) throw new Error("no room");
  journal.inbox.set(bytes, journal.receiveAt);
  return bytes.length;
}

function receive(journal: Journal, cookies: readonly number[]): void {
  journal.received(land(journal, cookies));
}

/** Every request there is to decode, as cookie by slot. */
function decode(journal: Journal): Array<[slot: number, cookie: number]> {
  const got: Array<[number, number]> = [];
  while (journal.next(request)) got.push([journal.entry, request.cookieLow]);
  return got;
}

const upTo = (count: number): number[] => [...Array(count).keys()];

describe("a fresh journal", () => {
  test("is empty, idle, and has room", () => {
    const journal = new Journal(memoryOf());
    expect(journal.hasUnanswered).toBe(false);
    expect(journal.batch).toEqual({ phase: "idle" });
    expect(journal.space).toBeGreaterThan(0);
    expect(journal.space % REQUEST_BYTES).toBe(0);
    expect(journal.next(request)).toBe(false);
    expect([journal.requests, journal.readBytes, journal.readErrors]).toEqual([0, 0, 0]);
  });

  test("of another layout is refused, and left as it is", () => {
    const memory = memoryOf();
    const words = new Int32Array(memory);
    words.fill(7);
    words[0] = 0x324c4e4a;
    const found = [...words];
    expect(() => new Journal(memory)).toThrow("cannot read a journal: it was made by another version");
    expect([...words]).toEqual(found);
  });

  test("decodes what has been received, in order, and counts what was answered", () => {
    const journal = new Journal(memoryOf());
    receive(journal, [7, 8, 9]);
    const got = decode(journal);
    expect(got.map(([, cookie]) => cookie)).toEqual([7, 8, 9]);
    expect(journal.entriesIn("received")).toEqual(got.map(([slot]) => slot));
    for (const [slot] of got) journal.answered(slot);
    expect(journal.hasUnanswered).toBe(false);
    expect(journal.requests).toBe(3);
  });

  test("refuses part of a request, what is no request, and payloads", () => {
    const journal = new Journal(memoryOf());
    expect(() => journal.received(REQUEST_BYTES + 1)).toThrow(NbdProtocolError);
    journal.inbox.fill(0xee, journal.receiveAt, journal.receiveAt + REQUEST_BYTES);
    journal.received(REQUEST_BYTES);
    expect(() => journal.next(request)).toThrow(NbdProtocolError);
    expect(() => journal.skip(512)).toThrow(NbdProtocolError);
  });
});

describe("the ring", () => {
  test("wraps: thousands of requests in batches of odd sizes, each decoded once, in order", () => {
    const journal = new Journal(memoryOf());
    let sent = 0;
    let seen = 0;
    for (let round = 0; sent < 4 * ENTRIES; round += 1) {
      const count = Math.min(1 + ((round * 7) % 61), journal.space / REQUEST_BYTES);
      expect(count).toBeGreaterThan(0);
      receive(
        journal,
        upTo(count).map((at) => sent + at),
      );
      sent += count;
      for (const [slot, cookie] of decode(journal)) {
        expect(cookie).toBe(seen++);
        journal.answered(slot);
      }
    }
    expect(seen).toBe(sent);
    expect(journal.requests).toBe(sent);
  });

  test("goes around slots whose answers take longer, and never receives over them", () => {
    const journal = new Journal(memoryOf());
    /** Cookie by slot: held for a long time, let go of in another order. */
    const held = new Map<number, number>();
    let next = 1;
    for (let round = 0; round < 400; round += 1) {
      const count = Math.min(1 + (round % 5), journal.space / REQUEST_BYTES);
      receive(
        journal,
        upTo(count).map((at) => next + at),
      );
      next += count;
      for (const [slot, cookie] of decode(journal)) {
        expect(held.has(slot)).toBe(false);
        if (cookie % 3 === 0) held.set(slot, cookie);
        else journal.answered(slot);
      }
      if (held.size < 40) continue;
      for (const [slot, cookie] of [...held].filter(([, one]) => one % 2 === 0).reverse()) {
        journal.requestIn(slot, request);
        expect(request.cookieLow).toBe(cookie);
        journal.answered(slot);
        held.delete(slot);
      }
    }
    expect(journal.entriesIn("received")).toEqual([...held.keys()].sort((a, b) => a - b));
  });

  test("that is full has no room, until one is answered; then for exactly that one", () => {
    const journal = new Journal(memoryOf());
    let next = 0;
    while (journal.space > 0) {
      receive(
        journal,
        upTo(journal.space / REQUEST_BYTES).map(() => next++),
      );
      decode(journal);
    }
    expect(next).toBe(ENTRIES);
    journal.answered(300);
    expect(journal.space).toBe(REQUEST_BYTES);
    receive(journal, [12_345]);
    expect(decode(journal)).toEqual([[300, 12_345]]);
    expect(journal.space).toBe(0);
    journal.answered(0);
    journal.answered(ENTRIES - 1);
    expect(journal.space).toBe(REQUEST_BYTES);
  });

  test("received and not decoded requests are not received over, whatever is free behind them", () => {
    const journal = new Journal(memoryOf());
    receive(journal, upTo(10));
    expect(journal.next(request)).toBe(true);
    journal.answered(journal.entry);
    receive(journal, [100, 101]);
    expect(decode(journal).map(([, cookie]) => cookie)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 101]);
  });
});

describe("a successor", () => {
  test("finds requests that had landed and were not counted", () => {
    const memory = memoryOf();
    const dead = new Journal(memory);
    receive(dead, [1, 2]);
    decode(dead);
    land(dead, [3, 4, 5]);
    expect(new Journal(memory).entriesIn("received")).toHaveLength(5);
    const successor = new Journal(memory);
    expect(decode(successor).map(([, cookie]) => cookie)).toEqual([1, 2, 3, 4, 5]);
    expect(successor.next(request)).toBe(false);
  });

  test("decodes what was inherited first, and receives in free slots only", () => {
    const memory = memoryOf();
    const dead = new Journal(memory);
    receive(dead, upTo(20));
    for (const [slot, cookie] of decode(dead)) if (cookie % 2 === 0) dead.answered(slot);
    const successor = new Journal(memory);
    // The first free slot has a used one behind it.
    expect(successor.space).toBe(REQUEST_BYTES);
    receive(successor, [99]);
    expect(decode(successor).map(([, cookie]) => cookie)).toEqual([1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 99]);
    expect(successor.requests).toBe(10);
  });

  test("inherits nothing that was SENDING: that is for its settling", () => {
    const memory = memoryOf();
    const dead = new Journal(memory);
    receive(dead, [1, 2, 3]);
    const [, second] = decode(dead).map(([slot]) => slot) as [number, number, number];
    dead.sending(second);
    const successor = new Journal(memory);
    expect(decode(successor).map(([, cookie]) => cookie)).toEqual([1, 3]);
    expect(successor.entriesIn("sending")).toEqual([second]);
    successor.requestIn(second, request);
    expect(request).toMatchObject({ cookieLow: 2, offsetBytes: 1024, lengthBytes: 512 });
    successor.unsent(second);
    expect(decode(new Journal(memory)).map(([, cookie]) => cookie)).toEqual([1, 2, 3]);
  });

  test("finds the batch as it was left, and the counters", () => {
    const memory = memoryOf();
    const dead = new Journal(memory);
    dead.readBytes += 4096;
    dead.readErrors += 2;
    dead.filling(0, 3_000_000);
    expect(new Journal(memory).batch).toEqual({ phase: "filling", committedBytes: 0, totalBytes: 3_000_000 });
    dead.filled(1_048_576);
    expect(new Journal(memory).batch).toEqual({
      phase: "filled",
      committedBytes: 1_048_576,
      totalBytes: 3_000_000,
    });
    dead.filling(1_048_576, 3_000_000);
    expect(new Journal(memory).batch).toMatchObject({ phase: "filling", committedBytes: 1_048_576 });
    dead.idle();
    const successor = new Journal(memory);
    expect(successor.batch).toEqual({ phase: "idle" });
    expect([successor.readBytes, successor.readErrors]).toEqual([4096, 2]);
  });

  test("refuses a file of another layout, and reports words that no worker wrote", () => {
    const other = memoryOf();
    new Int32Array(other)[0] = 1;
    expect(() => new Journal(other)).toThrow("made by another version");
    const memory = memoryOf();
    expect(new Journal(memory).batch).toEqual({ phase: "idle" });
    const journal = new Journal(memory);
    receive(journal, [1]);
    const [[slot]] = decode(journal) as [[number, number]];
    journal.inbox[journal.inbox.length - REQUEST_BYTES] = 0x77;
    expect(journal.entriesIn("unknown")).toEqual([ENTRIES - 1]);
    expect(journal.entriesIn("received")).toEqual([slot]);
    expect(journal.hasUnanswered).toBe(true);
  });

  test("busy says whether its worker was inside the link's code", () => {
    const memory = memoryOf();
    const dead = new Journal(memory);
    dead.busy = true;
    expect(new Journal(memory).busy).toBe(true);
    dead.busy = false;
    expect(new Journal(memory).busy).toBe(false);
  });
});
