/** account.ts: each verdict by itself, and when standing still counts as one. */
import { describe, expect, test } from "vitest";
import { Accountant, judge, type Sample, STILL_MS } from "../../../src/journal/account.ts";

const sample = (inFlight: number, unread: number, allRead = true): Sample => ({ inFlight, unread, allRead });

describe("judge", () => {
  test.each([
    // in flight, unread, all read, pending, in doubt
    ["all in doubt are still in flight, and nothing is underway", 3, 0, true, 0, 3, "not-sent"],
    [
      "some in doubt seem to have ended: no send could have carried only those",
      2,
      0,
      true,
      0,
      3,
      "unsettled",
    ],
    ["all in doubt have ended", 0, 0, true, 0, 3, "sent"],
    ["the same beside pending ones", 5, 0, true, 5, 3, "sent"],
    ["the same beside unread ones", 9, 4, true, 5, 3, "sent"],
    ["not sent beside pending and unread ones", 12, 4, true, 5, 3, "not-sent"],
    ["replies still to be read: they may be those", 3, 0, false, 0, 3, "unsettled"],
    ["all in doubt have ended, though something else is not read", 0, 0, false, 0, 3, "sent"],
    [
      "more in flight than can be: earlier replies are not read, or a request is on its way",
      4,
      0,
      true,
      0,
      3,
      "unsettled",
    ],
    ["fewer in flight than we have to answer", 4, 0, true, 5, 0, "impossible"],
    ["fewer in flight than we have to answer, with unread ones", 5, 1, true, 5, 0, "impossible"],
    ["and with some in doubt too", 4, 0, true, 5, 3, "impossible"],
  ] as const)("%s", (_, inFlight, unread, allRead, pending, sending, expected) => {
    expect(judge({ pending, sending }, sample(inFlight, unread, allRead))).toBe(expected);
  });
});

describe("Accountant", () => {
  test("proof that they were sent is taken at once", () => {
    expect(new Accountant({ pending: 1, sending: 2 }).take(sample(1, 0), 0)).toBe("sent");
  });

  test("that they were not is believed after standing still, not before", () => {
    const accountant = new Accountant({ pending: 0, sending: 2 });
    const steps = [...Array(STILL_MS + 1).keys()].map((ms) => accountant.take(sample(2, 0), ms));
    expect(steps).toEqual([...Array(STILL_MS).fill(undefined), "not-sent"]);
  });

  test("time alone is not enough: it was looked at several times", () => {
    const accountant = new Accountant({ pending: 0, sending: 2 });
    expect(accountant.take(sample(2, 0), 0)).toBeUndefined();
    expect(accountant.take(sample(2, 0), 1000)).toBeUndefined();
    expect(accountant.take(sample(2, 0), 2000)).toBeUndefined();
    expect(accountant.take(sample(2, 0), 3000)).toBeUndefined();
    expect(accountant.take(sample(2, 0), 4000)).toBe("not-sent");
  });

  test.each([
    ["a request that comes", sample(3, 1)],
    ["a reply that is not read", sample(2, 0, false)],
    ["a count that does not fit", sample(5, 0)],
  ])("%s begins the waiting anew", (_, disturbance) => {
    const accountant = new Accountant({ pending: 0, sending: 2 });
    for (let ms = 0; ms < STILL_MS; ms += 1) accountant.take(sample(2, 0), ms);
    expect(accountant.take(disturbance, STILL_MS)).toBeUndefined();
    for (let ms = 1; ms < STILL_MS; ms += 1)
      expect(accountant.take(sample(2, 0), STILL_MS + ms)).toBeUndefined();
    expect(accountant.take(sample(2, 0), 2 * STILL_MS + 1)).toBe("not-sent");
  });

  test("what does not add up stays unsettled, and is told in numbers", () => {
    const accountant = new Accountant({ pending: 4, sending: 2 });
    for (let ms = 0; ms < 100; ms += 1) expect(accountant.take(sample(3, 1, false), ms)).toBeUndefined();
    expect(accountant.explain()).toBe(
      "the account does not add up: 3 in flight, 1 unread, 4 unanswered, 2 in doubt, and replies still unread",
    );
  });
});
