/** transaction.ts: what belongs to an answer and when it is complete. */
import { describe, expect, test } from "vitest";
import { AnswerCollector } from "../../../../netlink/wire/transaction.ts";
import { ack, done, generic, message, PORT_ID, uint } from "../encode.ts";

const request = generic({ type: 28, flags: 5, sequence: 9 }, 5);
const data = (flags = 0): Buffer => generic({ type: 28, flags, sequence: 9 }, 5, uint(4, 1));

function collector(isDump = false): AnswerCollector {
  return new AnswerCollector({ sequence: 9, portId: PORT_ID, isDump });
}

describe("AnswerCollector for a plain request", () => {
  test("is complete with the acknowledgement, which comes after the data", () => {
    const answer = collector();
    expect(answer.accept(data())).toBe(false);
    expect(answer.accept(ack(request))).toBe(true);
    expect(answer).toMatchObject({ verdict: { errno: 0 }, interrupted: false, overrun: false });
    expect(answer.messages).toHaveLength(1);
  });

  test("takes data and acknowledgement from one datagram and stops there", () => {
    const answer = collector();
    expect(answer.accept(Buffer.concat([data(), ack(request), data()]))).toBe(true);
    expect(answer.messages).toHaveLength(1);
  });

  test("ignores other sequence numbers and other ports", () => {
    const answer = collector();
    const stale = ack(request, { errno: 16, sequence: 8 });
    const foreign = message({ type: 2, sequence: 9, portId: 1 }, Buffer.alloc(20));
    expect(answer.accept(Buffer.concat([stale, foreign]))).toBe(false);
    expect(answer.verdict).toBeUndefined();
    expect(answer.messages).toHaveLength(0);
  });

  test("ignores NOOP and DONE, and remembers OVERRUN", () => {
    const answer = collector();
    expect(answer.accept(message({ type: 1, sequence: 9 }))).toBe(false);
    expect(answer.accept(done(request))).toBe(false);
    expect(answer.overrun).toBe(false);
    expect(answer.accept(message({ type: 4, sequence: 9 }))).toBe(false);
    expect(answer.overrun).toBe(true);
    expect(answer.messages).toHaveLength(0);
  });

  test("does not mistake flags of plain data for an interrupted dump", () => {
    const answer = collector();
    answer.accept(data(0x10));
    expect(answer.interrupted).toBe(false);
  });
});

describe("AnswerCollector for a dump", () => {
  test("is complete with DONE, not with an acknowledgement", () => {
    const answer = collector(true);
    expect(answer.accept(data(2))).toBe(false);
    expect(answer.accept(ack(request))).toBe(false);
    expect(answer.accept(data(2))).toBe(false);
    expect(answer.accept(done(request))).toBe(true);
    expect(answer.messages).toHaveLength(2);
    expect(answer.verdict).toEqual({ errno: 0 });
  });

  test("ends with a refusal", () => {
    const answer = collector(true);
    expect(answer.accept(ack(request, { errno: 95 }))).toBe(true);
    expect(answer.verdict).toEqual({ errno: 95 });
  });

  test.each([
    ["a data message", data(0x12), done(request)],
    ["the end", data(2), done(request, 0, 0x10)],
  ])("notices the interruption on %s", (_where, first, last) => {
    const answer = collector(true);
    expect(answer.accept(first)).toBe(false);
    expect(answer.accept(last)).toBe(true);
    expect(answer.interrupted).toBe(true);
  });
});
