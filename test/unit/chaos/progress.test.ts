/** Lines on stderr: rewritten on a terminal, one after the other elsewhere. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Progress, type ProgressOutput } from "../../../src/chaos/progress.ts";

let written: string;
const output = (isTTY: boolean, columns = 60): ProgressOutput => ({
  isTTY,
  columns,
  write: (text) => {
    written += text;
  },
});

beforeEach(() => {
  vi.useFakeTimers();
  written = "";
});
afterEach(() => void vi.useRealTimers());

test("without a terminal: every line, none rewritten, nothing by itself", () => {
  const progress = new Progress(output(false));
  progress.now = () => "now";
  progress.say("seed 1");
  progress.step("1/2 a fault");
  vi.advanceTimersByTime(10_000);
  progress.close();
  expect(written).toBe("seed 1\n1/2 a fault\n");
});

test("on a terminal: one line a second in the same place, cut to its width; what must stay is above it", () => {
  const progress = new Progress(output(true, 30));
  let second = 0;
  progress.now = () => `${++second} s of ${"a long line ".repeat(10)}`;
  vi.advanceTimersByTime(1000);
  expect(written).toBe("\r\u001b[K1 s of a long line a long lin");
  written = "";
  progress.step("1/2 a fault");
  expect(written).toBe("\r\u001b[K2 s of a long line a long lin");
  written = "";
  progress.say("problem: x");
  expect(written).toBe("\r\u001b[Kproblem: x\n\r\u001b[K3 s of a long line a long lin");
  written = "";
  progress.close();
  vi.advanceTimersByTime(5000);
  expect(written).toBe("\r\u001b[K");
});

test("names in a line do nothing to the terminal, and begin no other line", () => {
  const hostile = "a\u001b[2J\nb";
  const here = new Progress(output(true));
  here.now = () => hostile;
  here.say(hostile);
  expect(written).toBe("\r\u001b[Ka\\x1b[2J\\nb\n\r\u001b[Ka\\x1b[2J\\nb");
  here.close();
  written = "";
  new Progress(output(false)).step(hostile);
  expect(written).toBe("a\\x1b[2J\\nb\n");
});
