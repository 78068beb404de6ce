/**
 * How the report writes times, counts and texts; the axis that holds a run's latencies.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  codeForScript,
  escapeHtml,
  formatBytes,
  formatClock,
  formatCount,
  formatMs,
  formatMsCell,
  formatSpan,
  jsonForScript,
  logRange,
  plural,
} from "../../../../src/chaos/report/format.ts";
import { shellWord } from "../../../../src/text/shell-word.ts";

describe("formats", () => {
  test.each([
    [0.042, "0.04 ms"],
    [0.996, "1.0 ms"],
    [9.94, "9.9 ms"],
    [9.96, "10 ms"],
    [999.4, "999 ms"],
    [999.6, "1.00 s"],
    [2203.9, "2.20 s"],
    [12_340, "12.3 s"],
    [Number.NaN, "–"],
    [null, "–"],
  ])("formatMs %s", (milliseconds, text) => {
    expect(formatMs(milliseconds)).toBe(text);
  });

  test.each([
    [0, 0, "0:00"],
    [61_000, 0, "1:01"],
    [59_960, 1, "1:00.0"],
    [9_050, 1, "0:09.1"],
    [3_725_400, 1, "1:02:05.4"],
    [-5, 0, "0:00"],
  ])("formatClock %s with %s digits", (milliseconds, digits, text) => {
    expect(formatClock(milliseconds, digits)).toBe(text);
  });

  test("columns and counts group their thousands", () => {
    expect(formatMsCell(1052.34)).toBe("1\u202f052.3");
    expect(formatMsCell(0.04)).toBe("0.0");
    expect(formatCount(1_234_567)).toBe("1\u202f234\u202f567");
    expect(formatCount(999)).toBe("999");
  });

  test("words", () => {
    expect(plural(1, "fault")).toBe("1\u00a0fault");
    expect(plural(0, "fault")).toBe("0\u00a0faults");
    expect(formatBytes(113_045_504)).toBe("107.8\u00a0MiB");
    expect(formatBytes(17)).toBe("17\u00a0bytes");
    expect(
      [42_000, 60_000, 303_000, 3_840_000].map(formatSpan).map((text) => text.replaceAll("\u00a0", " ")),
    ).toEqual(["42 s", "1 min", "5 min 3 s", "1 h 4 min"]);
  });
});

const ACTIVE = /[<>"'`]|&(?!#\d+;)|\p{Cc}|\p{Bidi_Control}/u;

/** Code units of all sorts, and often of those that matter. */
function mostlyLow(code: number): number {
  return code % 2 === 0 ? code : code % 0x100 < 0x80 ? code % 0x80 : 0x2000 + (code % 0x80);
}

describe("escaping", () => {
  test("escapeHtml leaves nothing that HTML, an attribute or a terminal would interpret", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 0xffff }).map(mostlyLow), { maxLength: 60 }),
        (codes) => {
          const text = String.fromCharCode(...codes);
          return !ACTIVE.test(escapeHtml(text));
        },
      ),
    );
  });

  test("escapeHtml keeps other texts as they are", () => {
    expect(escapeHtml("/srv/Ünïcode 像/a.erofs")).toBe("/srv/Ünïcode 像/a.erofs");
  });

  test("jsonForScript cannot end its element, and parses back", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = jsonForScript({ value, hostile: "</script><!--" });
        expect(text).not.toContain("<");
        expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify({ value, hostile: "</script><!--" })));
      }),
    );
  });

  test("codeForScript keeps what code means", () => {
    const code = codeForScript('"</script><!--</SCRIPT>"');
    expect(code).not.toMatch(/<\/script|<!--/i);
    expect(new Function(`return ${code}`)()).toBe("</script><!--</SCRIPT>");
  });

  test.each([
    ["/dev/nbd0", "/dev/nbd0"],
    ["/a b", "'/a b'"],
    ["it's", "'it'\\''s'"],
    ["", "''"],
    ["$(reboot)", "'$(reboot)'"],
  ])("shellWord %s", (word, quoted) => {
    expect(shellWord(word)).toBe(quoted);
  });
});

describe("logRange", () => {
  test("holds all values, ends at 1, 2 or 5, and is at least a factor of twenty", () => {
    const values = fc.array(fc.double({ min: 0.001, max: 1e6, noNaN: true }), { minLength: 1 });
    fc.assert(
      fc.property(values, (some) => {
        const { lowMs, highMs } = logRange(some);
        expect(lowMs).toBeLessThanOrEqual(Math.min(...some));
        expect(highMs).toBeGreaterThanOrEqual(Math.max(...some));
        expect(highMs / lowMs).toBeGreaterThan(19.99);
        expect([1, 2, 5]).toContain(Number(lowMs.toExponential(3).split("e")[0]));
      }),
    );
  });

  test("accepts zeros and an empty list", () => {
    expect(logRange([])).toEqual({ lowMs: 1, highMs: 1000 });
    expect(logRange([0, -1, Number.NaN, 3])).toEqual({ lowMs: 2, highMs: 40 });
  });
});
