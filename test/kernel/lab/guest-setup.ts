/**
 * Loaded by vitest before each guest test file: notes that a test begins, in the test's own process and at once.
 * The reporter learns of it later, and too late when the test takes the kernel down. report.ts reads the lines.
 */
import { appendFileSync } from "node:fs";
import { join, relative } from "node:path";
import type { RunnerTask } from "vitest";
import { beforeEach } from "vitest";
import type { ReportLine } from "./report-lines.ts";

const share = process.env["EROFS_NBD_LAB_SHARE"];

if (process.env["EROFS_NBD_LAB_REPORT"] !== undefined && share !== undefined) {
  const path = join(share, "results.jsonl");
  beforeEach(({ task }) => {
    const names: string[] = [];
    for (let at: RunnerTask | undefined = task; at !== undefined; at = at.suite) names.unshift(at.name);
    const line: ReportLine = { type: "started", file: relative(process.cwd(), task.file.filepath), names };
    appendFileSync(path, `${JSON.stringify(line)}\n`);
  });
}
