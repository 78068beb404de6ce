/**
 * The lines of a guest's `results.jsonl`: written by guest-reporter.ts, read by report.ts.
 */

/** An error as it crosses from the guest to the host. */
export interface ReportedError {
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  readonly diff: string | undefined;
}

/** One test's result. */
export interface TestLine {
  readonly type: "test";
  /** Relative to the project. */
  readonly file: string;
  /** The describe titles and the test's own, outermost first. */
  readonly names: readonly string[];
  readonly state: "passed" | "failed" | "skipped";
  readonly durationMs: number;
  readonly note: string | undefined;
  readonly errors: readonly ReportedError[];
  /** The end of the kernel log when the test failed. */
  readonly dmesg: string | undefined;
}

/** A file is through; its errors are those outside of tests (imports, beforeAll). */
export interface FileLine {
  readonly type: "file";
  readonly file: string;
  readonly errors: readonly ReportedError[];
  readonly dmesg: string | undefined;
}

/** One fact of a guest's test run. */
export type ReportLine =
  | { readonly type: "collected"; readonly file: string; readonly tests: readonly (readonly string[])[] }
  | { readonly type: "started"; readonly file: string; readonly names: readonly string[] }
  | TestLine
  | FileLine
  /** The run is ended after a test that was out of time: tests that begin now have not run. */
  | { readonly type: "stopped"; readonly why: string }
  | { readonly type: "end"; readonly reason: string; readonly errors: readonly ReportedError[] };

/** The note of a test that a former boot of the same kernel has told of. */
export const TOLD_BEFORE = "told by a former boot";

/** One word for one test of one file. */
export function keyOf(file: string, names: readonly string[]): string {
  return [file, ...names].join("\0");
}
