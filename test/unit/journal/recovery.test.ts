/** recovery.ts: one test for each row of the argument in journal.ts, and for everything that cannot be. */
import { describe, expect, test } from "vitest";
import type { Sample } from "../../../src/journal/account.ts";
import { Journal } from "../../../src/journal/journal.ts";
import { JOURNAL_BYTES } from "../../../src/journal/layout.ts";
import { type LinkWitness, type Settlement, settle } from "../../../src/journal/recovery.ts";
import { REQUEST_BYTES } from "../../../src/nbd/wire.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";

const PATIENCE_MS = 60;

/** A journal with so many requests received, the first of them SENDING. */
function journalWith(received: number, sending = 0): Journal {
  const journal = new Journal(new ArrayBuffer(JOURNAL_BYTES));
  for (let cookie = 0; cookie < received; cookie += 1) {
    journal.inbox.set(requestHeader(0, 0, BigInt(cookie), 0n, 512), journal.receiveAt);
    journal.received(REQUEST_BYTES);
  }
  for (let slot = 0; slot < sending; slot += 1) journal.sending(slot);
  return journal;
}

interface Seen {
  pipeBytes?: number;
  counted?: boolean;
  /** The last one is seen for ever. Never asked for when there is none. */
  samples?: Array<Sample | undefined>;
}

function witness({ pipeBytes = 0, counted = true, samples }: Seen = {}): LinkWitness {
  const left = [...(samples ?? [])];
  return {
    counted,
    pipeBytes: () => pipeBytes,
    sample: () => {
      if (samples === undefined) throw new Error("nothing was to be sampled");
      return left.length > 1 ? left.shift() : left[0];
    },
  };
}

const run = (journal: Journal, seen?: Seen): Promise<Settlement> =>
  settle(journal, witness(seen), PATIENCE_MS);
const state = (journal: Journal): [received: number[], sending: number[]] => [
  journal.entriesIn("received"),
  journal.entriesIn("sending"),
];
const still = (inFlight: number, unread = 0, allRead = true): Sample => ({ inFlight, unread, allRead });

describe("nothing in doubt", () => {
  test("an idle link", async () => {
    expect(await run(journalWith(0), { samples: [still(0)] })).toEqual({
      safe: true,
      unanswered: 0,
      sent: 0,
      freshPipe: true,
    });
  });

  test("requests received and not answered: left for the next worker", async () => {
    const journal = journalWith(3);
    expect(await run(journal, { samples: [still(5, 2)] })).toMatchObject({
      safe: true,
      unanswered: 3,
      sent: 0,
    });
    expect(state(journal)).toEqual([[0, 1, 2], []]);
  });

  test("fewer in flight than there are to answer, for a moment: a count that was late", async () => {
    const samples = [still(4, 2), still(5, 2)];
    expect(await run(journalWith(3), { samples })).toMatchObject({ safe: true, unanswered: 3 });
  });

  test("fewer in flight than there are to answer, for good: some of the answers would be second ones", async () => {
    const journal = journalWith(3);
    const settlement = await run(journal, { samples: [still(2)] });
    expect(settlement).toEqual({
      safe: false,
      why: "the account does not add up: 2 in flight, 0 unread, 3 unanswered, 0 in doubt",
    });
    expect(state(journal)).toEqual([[0, 1, 2], []]);
  });

  test("and nobody who counts: what was received is surely unanswered", async () => {
    expect(await run(journalWith(2), { samples: [undefined] })).toMatchObject({ safe: true, unanswered: 2 });
  });
});

describe("one send in doubt", () => {
  test("it had happened", async () => {
    const journal = journalWith(5, 3);
    expect(await run(journal, { samples: [still(5, 0, false), still(4, 0, false), still(2)] })).toEqual({
      safe: true,
      unanswered: 2,
      sent: 3,
      freshPipe: true,
    });
    expect(state(journal)).toEqual([[3, 4], []]);
    expect(journal.requests).toBe(3);
  });

  test("it had not", async () => {
    const journal = journalWith(5, 3);
    expect(await run(journal, { samples: [still(6, 1)] })).toMatchObject({
      safe: true,
      unanswered: 5,
      sent: 0,
    });
    expect(state(journal)).toEqual([[0, 1, 2, 3, 4], []]);
    expect(journal.requests).toBe(0);
  });

  test("a settling that did not run until its time was over still looks before it judges", async () => {
    const journal = journalWith(5, 3);
    expect(await settle(journal, witness({ samples: [still(6, 1)] }), 0)).toMatchObject({
      safe: true,
      unanswered: 5,
    });
  });

  test("replies that nobody reads: never settled", async () => {
    const journal = journalWith(5, 3);
    expect(await run(journal, { samples: [still(5, 0, false)] })).toEqual({
      safe: false,
      why: "the account does not add up: 5 in flight, 0 unread, 2 unanswered, 3 in doubt, and replies still unread",
    });
    expect(state(journal)).toEqual([
      [3, 4],
      [0, 1, 2],
    ]);
  });

  test("nobody who counts: never guessed", async () => {
    expect(await run(journalWith(2, 1), { samples: [undefined] })).toEqual({
      safe: false,
      why: "no count of reads in flight can settle its last send",
    });
    expect(await run(journalWith(2, 1), { samples: [still(2, 0, false), undefined] })).toMatchObject({
      safe: false,
    });
  });

  test("on a link that does not send that way: it was just about to fill the pipe", async () => {
    const journal = journalWith(4, 2);
    expect(await run(journal, { counted: false })).toMatchObject({
      safe: true,
      unanswered: 4,
      freshPipe: true,
    });
    expect(state(journal)).toEqual([[0, 1, 2, 3], []]);
  });
});

describe("the pipe", () => {
  test("was being filled, and nothing has left: void, all of it is answered anew", async () => {
    const journal = journalWith(4, 2);
    journal.filling(0, 5000);
    expect(await run(journal, { pipeBytes: 3000 })).toEqual({
      safe: true,
      unanswered: 4,
      sent: 0,
      freshPipe: true,
    });
    expect(state(journal)).toEqual([[0, 1, 2, 3], []]);
    expect(journal.batch).toEqual({ phase: "idle" });
  });

  test.each([0, 1, 2999, 5000])(
    "was filled and holds %i bytes: exactly those are left",
    async (pipeBytes) => {
      const journal = journalWith(4, 2);
      journal.filling(0, 5000);
      journal.filled(5000);
      expect(await run(journal, { pipeBytes })).toEqual({
        safe: true,
        unanswered: 2,
        sent: 0,
        freshPipe: false,
      });
      expect(state(journal)).toEqual([
        [2, 3],
        [0, 1],
      ]);
      expect(journal.batch).toEqual({ phase: "filled", committedBytes: 5000, totalBytes: 5000 });
    },
  );

  test("was emptied, and some of its slots freed already", async () => {
    const journal = journalWith(4, 3);
    journal.filling(0, 5000);
    journal.filled(5000);
    journal.answered(0);
    expect(await run(journal)).toMatchObject({ safe: true, unanswered: 1, freshPipe: false });
    expect(state(journal)).toEqual([[3], [1, 2]]);
  });

  test("holds more than was put there: unsafe", async () => {
    const journal = journalWith(1, 1);
    journal.filling(0, 5000);
    journal.filled(3000);
    expect(await run(journal, { pipeBytes: 3001 })).toEqual({
      safe: false,
      why: "the pipe holds 3001 bytes of 3000",
    });
  });

  test("was being filled with a further part of a large reply: that part is void, what left stands", async () => {
    const journal = journalWith(2, 1);
    journal.filling(0, 9000);
    journal.filled(4000);
    journal.filling(4000, 9000);
    expect(await run(journal, { pipeBytes: 700 })).toEqual({
      safe: true,
      unanswered: 1,
      sent: 0,
      freshPipe: true,
    });
    expect(journal.batch).toEqual({ phase: "filling", committedBytes: 4000, totalBytes: 9000 });
    expect(state(journal)).toEqual([[1], [0]]);
  });

  test("holds a part of a large reply: the rest follows", async () => {
    const journal = journalWith(2, 1);
    journal.filling(0, 9000);
    journal.filled(4000);
    expect(await run(journal, { pipeBytes: 100 })).toMatchObject({ safe: true, freshPipe: false });
    expect(journal.batch).toEqual({ phase: "filled", committedBytes: 4000, totalBytes: 9000 });
  });

  test("a part of a reply to several requests cannot be gone on with", async () => {
    const journal = journalWith(2, 2);
    journal.filling(0, 9000);
    journal.filled(4000);
    expect(await run(journal)).toEqual({ safe: false, why: "a reply was cut inside a batch of 2" });
  });
});

test("entries that are no requests make a link unsafe", async () => {
  const journal = journalWith(2);
  journal.inbox[journal.inbox.length - REQUEST_BYTES] = 0x77;
  expect(await run(journal)).toEqual({
    safe: false,
    why: "the journal holds 1 entries that are no requests",
  });
});

test("a settling that was interrupted is gone on with: each of its steps leaves what says the same", async () => {
  for (let freed = 0; freed <= 3; freed += 1) {
    const sent = journalWith(5, 3);
    for (let slot = 0; slot < freed; slot += 1) sent.answered(slot);
    expect(await run(sent, { samples: [still(2)] })).toMatchObject({ safe: true, unanswered: 2 });
    expect(state(sent)).toEqual([[3, 4], []]);

    const unsent = journalWith(5, 3);
    for (let slot = 0; slot < freed; slot += 1) unsent.unsent(slot);
    expect(await run(unsent, { samples: [still(5)] })).toMatchObject({ safe: true, unanswered: 5 });
    expect(state(unsent)).toEqual([[0, 1, 2, 3, 4], []]);
  }
});
