/** request-ages.ts: what a request is known by, and what waits unread. */
import { describe, expect, test } from "vitest";
import { RequestAges } from "../../../../src/pool/links/request-ages.ts";

/** A journal that holds these unanswered, as [slot, cookie]. */
const journal = (requests: number, ...unanswered: Array<[slot: number, cookie: number]>) => ({
  requests,
  forEachUnanswered: (tell: (slot: number, high: number, low: number) => void): void => {
    for (const [slot, cookie] of unanswered) tell(slot, 0, cookie);
  },
});

describe("the oldest request", () => {
  test("ages from the look that saw it first, independent of other answers", () => {
    const ages = new RequestAges();
    ages.note(1000, journal(0, [3, 70]), 0);
    ages.note(1250, journal(5, [3, 70], [4, 71]), 0);
    expect(ages.oldestMs(1500)).toBe(500);
    ages.note(1500, journal(6, [4, 71]), 0);
    expect(ages.oldestMs(1500)).toBe(250);
  });

  test("is another one when its slot has been used again", () => {
    const ages = new RequestAges();
    ages.note(0, journal(0, [3, 70]), 0);
    ages.note(5000, journal(1, [3, 90]), 0);
    expect(ages.oldestMs(5000)).toBe(0);
  });

  test("is the unread one while nothing is answered", () => {
    const ages = new RequestAges();
    ages.note(0, journal(7), 4);
    ages.note(250, journal(7), 5);
    expect(ages.oldestMs(1000)).toBe(1000);
    ages.note(1000, journal(8), 5);
    expect(ages.oldestMs(1200)).toBe(200);
    ages.note(1250, journal(12), 0);
    expect(ages.oldestMs(9000)).toBe(0);
  });

  test("is none when nothing waits", () => {
    const ages = new RequestAges();
    expect(ages.oldestMs(1)).toBe(0);
    ages.note(0, journal(0, [1, 1]), 2);
    ages.clear();
    expect(ages.oldestMs(9000)).toBe(0);
  });
});
