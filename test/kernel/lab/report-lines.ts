/**
 * The lines of a guest's `results.jsonl`: written by guest-reporter.ts, read by report.ts. Types only.
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
  | { readonly type: "end"; readonly reason: string; readonly errors: readonly ReportedError[] };
