/** lines.ts: every way to cut a stream gives the same lines. */
import { describe, expect, test } from "vitest";
import { LineSplitter } from "../../../src/control/line-splitter.ts";

function split(chunks: readonly Uint8Array[], maxBytes?: number): { lines: string[]; tooLong: number } {
  const lines: string[] = [];
  let tooLong = 0;
  const splitter = new LineSplitter(
    {
      line: (text) => lines.push(text),
      tooLong: () => {
        tooLong += 1;
      },
    },
    maxBytes,
  );
  for (const chunk of chunks) splitter.push(chunk);
  return { lines, tooLong };
}

describe("LineSplitter", () => {
  test("two cuts anywhere: the same lines; what has no newline yet is none", () => {
    const bytes = Buffer.from("one\n\nthrée\r\n\u2028four\nhalf");
    for (let first = 0; first <= bytes.length; first += 1) {
      for (let second = first; second <= bytes.length; second += 1) {
        const chunks = [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)];
        expect(split(chunks).lines).toEqual(["one", "", "thrée\r", "\u2028four"]);
      }
    }
  });

  test("a line may have the greatest length, and not one byte more, however it comes", () => {
    for (const size of [1, 3, 100]) {
      const chunksOf = (text: string): Buffer[] =>
        text.match(new RegExp(`[^]{1,${size}}`, "g"))?.map((part) => Buffer.from(part)) ?? [];
      expect(split(chunksOf("abcde\nabc\n"), 5)).toEqual({ lines: ["abcde", "abc"], tooLong: 0 });
      expect(split(chunksOf("abc\nabcdef\nabc\n"), 5)).toEqual({ lines: ["abc"], tooLong: 1 });
      expect(split(chunksOf("abcdefghijkl"), 5)).toEqual({ lines: [], tooLong: 1 });
    }
  });

  test("stopped by a listener, it is silent even about what has come already", () => {
    const lines: string[] = [];
    const splitter = new LineSplitter({
      line: (text) => {
        lines.push(text);
        splitter.stop();
      },
    });
    splitter.push(Buffer.from("a\nb\nc"));
    splitter.push(Buffer.from("d\n"));
    expect(lines).toEqual(["a"]);
  });
});
