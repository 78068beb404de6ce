/**
 * Makes sense of a guest's `results.jsonl`: every test that was to run, with its result, and everything that never
 * reported, as failures. Pure; linux-suite.ts declares the outcome as tests of the host's run.
 */
import {
  type FileLine,
  keyOf,
  type ReportedError,
  type ReportLine,
  type TestLine,
  TOLD_BEFORE,
} from "./report-lines.ts";

/** One test of the guest, or what stands for tests that never reported. */
export interface GuestTest {
  readonly file: string;
  readonly names: readonly string[];
  readonly state: "passed" | "failed" | "skipped";
  readonly durationMs: number;
  readonly note: string | undefined;
  readonly errors: readonly ReportedError[];
  readonly dmesg: string | undefined;
}

/** How the guest's run as a whole ended. */
export interface GuestEnd {
  /** Why it ended early, undefined when it came to its end. */
  readonly died: string | undefined;
  /** The runner's own verdict: a failure it knows of and we don't must not get lost. */
  readonly exitCode: number | undefined;
  /** It ended early by the emulator's fault: the test that was running has no result, and is run again. */
  readonly isEmulatorFault?: boolean;
  /** What to show with everything that did not report. */
  readonly evidence: string;
}

/** What one boot has told, and how it ended. */
export interface Boot {
  /** Content of results.jsonl; a last line cut in the middle is ignored. */
  readonly text: string;
  readonly end: GuestEnd;
}

/** What another boot is for. */
export interface Rest {
  /** Files with tests that were not reached. */
  readonly files: readonly string[];
  /** Tests of these that have a result, by {@link keyOf}. */
  readonly done: readonly string[];
}

/**
 * @param boots at least one, in order: each ran what the one before had left, see {@link restOf}
 * @param files the test files that were to run, relative to the project
 * @returns all tests, in the order they ran; at least one per file
 */
export function readReport(boots: readonly Boot[], files: readonly string[]): GuestTest[] {
  const lines = boots.flatMap((boot, at) => (at < boots.length - 1 ? closed(boot) : linesOf(boot)));
  const end = boots.at(-1)?.end ?? { died: "it was not booted", exitCode: undefined, evidence: "" };
  const found: GuestTest[] = [];
  for (const file of files) found.push(...testsOfFile(lines, file, end));
  const last = lines.find((line) => line.type === "end");
  const errors = last?.type === "end" ? last.errors : [];
  if (errors.length > 0) {
    found.push(failure("the whole run", ["has no error outside of tests"], errors, end.evidence));
  }
  if (end.died !== undefined || last === undefined) {
    // One test has the evidence already when it was running at that moment.
    const evidence = found.some((each) => each.dmesg === end.evidence) ? undefined : end.evidence;
    const why = end.died ?? "The runner ended early";
    found.push(failure("the whole run", ["comes to its end"], [made(why, "")], evidence));
  }
  if ((end.exitCode ?? 0) !== 0 && found.every((each) => each.state !== "failed")) {
    const error = made(`The runner ended with ${end.exitCode}, and no test failed`, "");
    found.push(failure("the whole run", ["comes to its end"], [error], end.evidence));
  }
  return found;
}

function testsOfFile(lines: readonly ReportLine[], file: string, end: GuestEnd): GuestTest[] {
  const own = lines.filter((line) => "file" in line && line.file === file);
  const tests = own.filter((line): line is TestLine => line.type === "test");
  const done = own.find((line): line is FileLine => line.type === "file");
  const found: GuestTest[] = tests.map((line) => ({ ...line }));
  found.push(...silentTests(lines, file, tests, end));
  if (done !== undefined && done.errors.length > 0) {
    found.push(failure(file, ["has no error outside of tests"], done.errors, done.dmesg ?? end.evidence));
  }
  if (done === undefined && (own.length === 0 || found.every((test) => test.state !== "failed"))) {
    found.push(
      failure(file, ["reports its tests"], [made("The file did not report", end.died ?? "")], undefined),
    );
  }
  if (found.length === 0) {
    found.push(failure(file, ["has tests"], [made("The file has no test", "")], undefined));
  }
  return found;
}

/** The tests of a file that gave no result, because the guest died first. */
function silentTests(
  lines: readonly ReportLine[],
  file: string,
  reported: readonly TestLine[],
  end: GuestEnd,
): GuestTest[] {
  const starts = lines.flatMap((line) => (line.type === "started" ? [line] : []));
  const startsHere = starts.filter((line) => line.file === file);
  const collected = lines.flatMap((line) =>
    line.type === "collected" && line.file === file ? line.tests : [],
  );
  const names = new Map(
    [...collected, ...startsHere.map((line) => line.names)].map((each) => [key(each), each]),
  );
  for (const line of reported) names.delete(key(line.names));
  const last = starts.at(-1);
  return [...names.values()].map((each) => {
    const started = startsHere.some((line) => key(line.names) === key(each));
    const running = last?.file === file && key(last.names) === key(each);
    const what = running ? "was running" : started ? "ran, but its result was lost" : "was not reached";
    const error = made(`The test ${what}`, end.died ?? "the runner ended early");
    return failure(file, each, [error], running ? end.evidence : undefined);
  });
}

/**
 * What another boot should run after these; undefined: there is nothing, or another boot would get no further.
 * @param files as given to {@link readReport}
 */
export function restOf(boots: readonly Boot[], files: readonly string[]): Rest | undefined {
  const last = boots.at(-1);
  if (last === undefined || linesOf(last).some((line) => line.type === "end")) return undefined;
  const lines = boots.flatMap(closed);
  const through = new Set(lines.flatMap((line) => (line.type === "file" ? [line.file] : [])));
  const left = files.filter((file) => !through.has(file));
  const hasProgress = last.end.isEmulatorFault === true || closed(last).some((line) => line.type === "test");
  // It did not come to a test: what keeps it is in the first file, outside of its tests.
  const rest = hasProgress ? left : left.slice(1);
  const done = lines.flatMap((line) => (line.type === "test" ? [keyOf(line.file, line.names)] : []));
  return rest.length === 0 ? undefined : { files: rest, done };
}

/** The lines of a boot that ended early, with a result for the test that it ended in. */
function closed({ text, end }: Boot): ReportLine[] {
  const lines = linesOf({ text, end });
  const isClosed = end.isEmulatorFault === true || lines.some((line) => line.type === "stopped");
  const running = isClosed ? undefined : runningTest(lines);
  if (running === undefined) return lines;
  const why = end.died ?? "the test process was stuck";
  const errors = [made("The test was running when its kernel was given up", why)];
  const { file, names } = running;
  return [
    ...lines,
    {
      type: "test",
      file,
      names,
      state: "failed",
      durationMs: 0,
      note: undefined,
      errors,
      dmesg: end.evidence,
    },
  ];
}

/** The test that has begun last, if it has no result. */
function runningTest(lines: readonly ReportLine[]): { file: string; names: readonly string[] } | undefined {
  const last = lines.findLast((line) => line.type === "started");
  if (last?.type !== "started") return undefined;
  const key = keyOf(last.file, last.names);
  const isTold = lines.some((line) => line.type === "test" && keyOf(line.file, line.names) === key);
  return isTold ? undefined : last;
}

/** Without what a former boot has told already. */
function linesOf({ text }: Boot): ReportLine[] {
  return parseLines(text).filter((line) => line.type !== "test" || line.note !== TOLD_BEFORE);
}

function parseLines(text: string): ReportLine[] {
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  return whole
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as ReportLine);
}

function key(names: readonly string[]): string {
  return names.join("\0");
}

function made(what: string, why: string): ReportedError {
  return { name: "Error", message: why === "" ? what : `${what}: ${why}`, stack: undefined, diff: undefined };
}

function failure(
  file: string,
  names: readonly string[],
  errors: readonly ReportedError[],
  dmesg: string | undefined,
): GuestTest {
  return { file, names, state: "failed", durationMs: 0, note: undefined, errors, dmesg };
}
