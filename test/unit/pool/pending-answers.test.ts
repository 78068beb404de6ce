/** pending-answers.ts: when a worker that owes answers counts as hung. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { PendingAnswers } from "../../../src/pool/pending-answers.ts";

let overdue: number;
let answers: PendingAnswers;

beforeEach(() => {
  vi.useFakeTimers();
  overdue = 0;
  answers = new PendingAnswers(1000, () => {
    overdue += 1;
  });
});
afterEach(() => {
  answers.end();
  vi.useRealTimers();
});

test("a worker that is silent for the deadline and one step more is overdue", () => {
  void answers.expect(1);
  vi.advanceTimersByTime(1000);
  expect(overdue).toBe(0);
  vi.advanceTimersByTime(100);
  expect(overdue).toBe(1);
});

test("each message about a pending link starts the deadline anew, for all of them", () => {
  for (const link of [1, 2, 3]) void answers.expect(link);
  for (const link of [1, 2, 3, 1, 2]) {
    vi.advanceTimersByTime(900);
    answers.noteProgress(link);
  }
  expect(overdue).toBe(0);
  // Nothing is pending about this link.
  answers.noteProgress(4);
  vi.advanceTimersByTime(1100);
  expect(overdue).toBe(1);
});

test("time in which this process did not run counts as one step", async () => {
  vi.useRealTimers();
  answers = new PendingAnswers(100, () => {
    overdue += 1;
  });
  void answers.expect(1);
  const end = performance.now() + 300;
  while (performance.now() < end);
  await new Promise((resolve) => setTimeout(resolve, 1));
  expect(overdue).toBe(0);
});

test("nothing is overdue when every answer has come, and the next one has the whole deadline", async () => {
  const first = answers.expect(1);
  answers.settle(1, true);
  expect(await first).toBe(true);
  answers.forget(1);
  vi.advanceTimersByTime(5000);
  void answers.expect(2);
  vi.advanceTimersByTime(1000);
  expect(overdue).toBe(0);
});

test("every pending answer of a dead worker is no", async () => {
  const pending = [answers.expect(1), answers.expect(2)];
  answers.end();
  expect(await Promise.all(pending)).toEqual([false, false]);
  vi.advanceTimersByTime(5000);
  expect(overdue).toBe(0);
});
