/**
 * readReport: what a guest's result lines say, and above all that a test or file that did not report is a failure.
 */
import { describe, expect, test } from "vitest";
import { type GuestEnd, readReport, restOf } from "../../kernel/lab/report/report.ts";
import { keyOf, type ReportLine, TOLD_BEFORE } from "../../kernel/lab/report/report-lines.ts";

const FILE = "test/kernel/guest/a.test.ts";
const FINE = { died: undefined, exitCode: 0, evidence: "the log" };
const DEAD = { died: "the guest was killed by SIGABRT", exitCode: undefined, evidence: "the log" };

const collected = (...names: string[]): ReportLine => ({
  type: "collected",
  file: FILE,
  tests: names.map((name) => [name]),
});
const started = (name: string): ReportLine => ({ type: "started", file: FILE, names: [name] });
const passed = (name: string): ReportLine => ({
  type: "test",
  file: FILE,
  names: [name],
  state: "passed",
  durationMs: 5,
  note: undefined,
  errors: [],
  dmesg: undefined,
});
const fileEnd = (...messages: string[]): ReportLine => ({
  type: "file",
  file: FILE,
  errors: messages.map((message) => ({ name: "Error", message, stack: undefined, diff: undefined })),
  dmesg: undefined,
});
const end: ReportLine = { type: "end", reason: "passed", errors: [] };

const text = (...lines: ReportLine[]): string => lines.map((line) => `${JSON.stringify(line)}\n`).join("");
const summaryOf = (results: ReturnType<typeof readReport>): string[] =>
  results.map((each) => `${each.state} ${each.names.join(" > ")}: ${each.errors[0]?.message ?? ""}`);
const summary = (lines: string, files: readonly string[], how: GuestEnd): string[] =>
  summaryOf(readReport([{ text: lines, end: how }], files));

describe("readReport", () => {
  test("hands on what reported", () => {
    const lines = text(
      collected("one", "two"),
      started("one"),
      passed("one"),
      started("two"),
      passed("two"),
      fileEnd(),
      end,
    );
    expect(summary(lines, [FILE], FINE)).toEqual(["passed one: ", "passed two: "]);
  });

  test("makes failures of the tests a dead guest left, each with what is known of it", () => {
    const lines = text(
      collected("one", "two", "three", "four"),
      started("one"),
      passed("one"),
      started("two"),
      started("three"),
    );
    const results = readReport([{ text: lines, end: DEAD }], [FILE]);
    expect(summary(lines, [FILE], DEAD)).toEqual([
      "passed one: ",
      `failed two: The test ran, but its result was lost: ${DEAD.died}`,
      `failed three: The test was running: ${DEAD.died}`,
      `failed four: The test was not reached: ${DEAD.died}`,
      `failed comes to its end: ${DEAD.died}`,
    ]);
    expect(results.filter((each) => each.dmesg === "the log").map((each) => each.names[0])).toEqual([
      "three",
    ]);
  });

  test("fails a file that never reported, beside one that did", () => {
    const other = "test/kernel/guest/b.test.ts";
    const lines = text(collected("one"), passed("one"), fileEnd(), end);
    expect(summary(lines, [FILE, other], FINE)).toEqual([
      "passed one: ",
      "failed reports its tests: The file did not report",
    ]);
  });

  test("fails a file that has no test, or an error outside of its tests", () => {
    expect(summary(text(collected(), fileEnd(), end), [FILE], FINE)).toEqual([
      "failed has tests: The file has no test",
    ]);
    expect(summary(text(fileEnd("at import"), end), [FILE], FINE)).toEqual([
      "failed has no error outside of tests: at import",
    ]);
  });

  test("fails when the runner itself stopped early or had an unhandled error", () => {
    const complete = [collected("one"), passed("one"), fileEnd()];
    expect(summary(text(...complete), [FILE], FINE).at(-1)).toBe(
      "failed comes to its end: The runner ended early",
    );
    const odd: ReportLine = {
      ...end,
      errors: [{ name: "Error", message: "unhandled", stack: undefined, diff: undefined }],
    };
    expect(summary(text(...complete, odd), [FILE], FINE).at(-1)).toBe(
      "failed has no error outside of tests: unhandled",
    );
  });

  test("fails when the runner says so though no test did", () => {
    const lines = text(collected("one"), passed("one"), fileEnd(), end);
    expect(summary(lines, [FILE], { ...FINE, exitCode: 1 })).toEqual([
      "passed one: ",
      "failed comes to its end: The runner ended with 1, and no test failed",
    ]);
  });

  test("survives every cut of the report, and no cut loses a test silently", () => {
    const whole = text(
      collected("one", "two"),
      started("one"),
      passed("one"),
      started("two"),
      passed("two"),
      fileEnd(),
      end,
    );
    for (let length = 0; length < whole.length; length += 1) {
      const results = readReport([{ text: whole.slice(0, length), end: DEAD }], [FILE]);
      expect(results.some((each) => each.state === "failed")).toBe(true);
      expect(results.length).toBeGreaterThan(1);
    }
  });
});

describe("boots one after the other", () => {
  const OTHER = "test/kernel/guest/b.test.ts";
  const STUCK = { died: undefined, exitCode: 1, evidence: "the log" };
  const again = (name: string): ReportLine =>
    ({ ...passed(name), state: "skipped", note: TOLD_BEFORE }) as ReportLine;
  const elsewhere = (line: ReportLine): ReportLine => ({ ...line, file: OTHER }) as ReportLine;
  const first = text(collected("one", "two", "three"), started("one"), passed("one"), started("two"));

  test("a test that hangs costs itself: the next boot passes over what was told, and runs the rest", () => {
    const boots = [{ text: first, end: STUCK }];
    expect(restOf(boots, [FILE, OTHER])).toEqual({
      files: [FILE, OTHER],
      done: [keyOf(FILE, ["one"]), keyOf(FILE, ["two"])],
    });
    const second = text(
      collected("one", "two", "three"),
      again("one"),
      again("two"),
      started("three"),
      passed("three"),
      fileEnd(),
      elsewhere(collected("four")),
      elsewhere(passed("four")),
      elsewhere(fileEnd()),
      end,
    );
    boots.push({ text: second, end: FINE });
    expect(restOf(boots, [FILE, OTHER])).toBeUndefined();
    const results = readReport(boots, [FILE, OTHER]);
    expect(summaryOf(results)).toEqual([
      "passed one: ",
      "failed two: The test was running when its kernel was given up: the test process was stuck",
      "passed three: ",
      "passed four: ",
    ]);
    expect(results[1]?.dmesg).toBe("the log");
  });

  test("after a test that was out of time, what has begun since then is run again", () => {
    const late: ReportLine = { ...passed("two"), state: "failed" } as ReportLine;
    const stopped: ReportLine = { type: "stopped", why: "two: Test timed out" };
    const boots = [{ text: `${first}${text(late, stopped, started("three"))}`, end: STUCK }];
    expect(restOf(boots, [FILE])?.done).toEqual([keyOf(FILE, ["one"]), keyOf(FILE, ["two"])]);
  });

  test("a test that was running when the emulator stopped has no result, and is run again", () => {
    const boots = [{ text: first, end: { ...DEAD, isEmulatorFault: true } }];
    expect(restOf(boots, [FILE])?.done).toEqual([keyOf(FILE, ["one"])]);
    const second = text(
      collected("one", "two", "three"),
      again("one"),
      started("two"),
      passed("two"),
      started("three"),
      passed("three"),
      fileEnd(),
      end,
    );
    expect(summaryOf(readReport([...boots, { text: second, end: FINE }], [FILE]))).toEqual([
      "passed one: ",
      "passed two: ",
      "passed three: ",
    ]);
  });

  test("an emulator that stopped before the first test costs no file", () => {
    const boots = [{ text: "", end: { ...DEAD, isEmulatorFault: true } }];
    expect(restOf(boots, [FILE, OTHER])).toEqual({ files: [FILE, OTHER], done: [] });
  });

  test("files that are through are not run again", () => {
    const boots = [{ text: text(collected("one"), passed("one"), fileEnd()), end: DEAD }];
    expect(restOf(boots, [FILE, OTHER])?.files).toEqual([OTHER]);
  });

  test("a file that hangs outside of its tests costs itself, and no boot is made in vain", () => {
    const boots = [{ text: text(collected("one")), end: STUCK }];
    expect(restOf(boots, [FILE, OTHER])).toEqual({ files: [OTHER], done: [] });
    expect(restOf(boots, [FILE])).toBeUndefined();
    const second = text(elsewhere(collected("four")), elsewhere(passed("four")), elsewhere(fileEnd()), end);
    expect(summaryOf(readReport([...boots, { text: second, end: FINE }], [FILE, OTHER]))).toEqual([
      "failed one: The test was not reached: the runner ended early",
      "passed four: ",
    ]);
  });

  test("the last boot's early end is a failure of the run", () => {
    const boots = [
      { text: first, end: STUCK },
      { text: text(started("three")), end: DEAD },
    ];
    expect(summaryOf(readReport(boots, [FILE])).slice(1)).toEqual([
      "failed two: The test was running when its kernel was given up: the test process was stuck",
      `failed three: The test was running: ${DEAD.died}`,
      `failed comes to its end: ${DEAD.died}`,
    ]);
  });
});
