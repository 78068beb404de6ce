/**
 * account.ts against a kernel in small steps: whatever order things happen in between two looks, no wrong verdict.
 *
 * The order within the kernel is the real one: a request counts as in flight before it can be seen in the socket, and
 * until after its reply was read. The worker is dead: nothing is received or sent any more. The sampler looks at the
 * socket first and at the count afterwards, and the kernel goes on in between.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { Accountant, type Sample, STILL_MS } from "../../src/journal/account.ts";

/** What the kernel has on one link. Replies are read, and their requests ended, in order. */
class Kernel {
  inFlight: number;
  unread = 0;
  /** Requests that count already and are not in the socket yet. */
  #started = 0;
  /** Replies in the socket. */
  #replies: number;
  /** Replies that were read, and whose requests still count. */
  #read = 0;

  constructor(received: number, replies: number, unread: number) {
    this.inFlight = received + unread;
    this.unread = unread;
    this.#replies = replies;
  }

  get allRead(): boolean {
    return this.#replies === 0;
  }

  /** One step of many; one that is not possible now does nothing. */
  step(kind: number): void {
    if (kind === 0) {
      this.inFlight += 1;
      this.#started += 1;
    } else if (kind === 1 && this.#started > 0) {
      this.#started -= 1;
      this.unread += 1;
    } else if (kind === 2 && this.#replies > 0) {
      this.#replies -= 1;
      this.#read += 1;
    } else if (kind === 3 && this.#read > 0) {
      this.#read -= 1;
      this.inFlight -= 1;
    }
  }

  /** No request is between two of its steps. */
  finish(): void {
    while (this.#started > 0) this.step(1);
    while (this.#replies > 0) this.step(2);
    while (this.#read > 0) this.step(3);
  }
}

const steps = fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 6 });
const scenario = fc.record({
  pending: fc.integer({ min: 0, max: 6 }),
  sending: fc.integer({ min: 1, max: 8 }),
  /** Replies of the batch in doubt whose slots were freed already, and of batches before it. */
  earlier: fc.integer({ min: 0, max: 8 }),
  unread: fc.integer({ min: 0, max: 4 }),
  sent: fc.boolean(),
  // Fewer than it takes to stand still: a kernel that does nothing for so long has nothing begun.
  looks: fc.array(fc.tuple(steps, steps, steps), { maxLength: STILL_MS - 1 }),
});

function run(input: typeof scenario extends fc.Arbitrary<infer T> ? T : never): {
  verdict: "sent" | "not-sent" | undefined;
  looks: number;
} {
  const { pending, sending, earlier, unread, sent, looks } = input;
  const kernel = new Kernel(pending + sending + earlier, earlier + (sent ? sending : 0), unread);
  const accountant = new Accountant({ pending, sending });
  let nowMs = 0;
  const look = (before: readonly number[], between: readonly number[], after: readonly number[]) => {
    for (const kind of before) kernel.step(kind);
    const unreadSeen = kernel.unread;
    for (const kind of between) kernel.step(kind);
    const { inFlight } = kernel;
    for (const kind of after) kernel.step(kind);
    const sample: Sample = { inFlight, unread: unreadSeen, allRead: kernel.allRead };
    nowMs += 1;
    return accountant.take(sample, nowMs);
  };
  for (const [at, [before, between, after]] of looks.entries()) {
    const verdict = look(before, between, after);
    if (verdict !== undefined) return { verdict, looks: at + 1 };
  }
  // A kernel that runs at all finishes what it has begun well within the time that nothing may move.
  kernel.finish();
  for (let at = 0; at < 3 * STILL_MS; at += 1) {
    const verdict = look([], [], []);
    if (verdict !== undefined) return { verdict, looks: looks.length + at + 1 };
  }
  return { verdict: undefined, looks: nowMs };
}

test("no order of events leads to a wrong verdict, and every account is settled once the kernel rests", () => {
  fc.assert(
    fc.property(scenario, (input) => {
      expect(run(input).verdict).toBe(input.sent ? "sent" : "not-sent");
    }),
    { numRuns: 20_000 },
  );
});

test("that they were sent is never said of replies that were not, however the kernel dawdles", () => {
  // The other verdict rests on a kernel that gets to run within STILL_MS; this one rests on nothing.
  fc.assert(
    fc.property(
      scenario,
      fc.array(fc.tuple(steps, steps, steps), { minLength: 20, maxLength: 60 }),
      (input, looks) => {
        const { verdict } = run({ ...input, sent: false, looks });
        expect(verdict).not.toBe("sent");
      },
    ),
    { numRuns: 3000 },
  );
});
