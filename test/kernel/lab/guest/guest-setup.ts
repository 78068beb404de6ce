/**
 * Loaded by vitest before each guest test file: notes that a test begins, in the test's own process and at once.
 * The reporter learns of it later, and too late when the test takes the kernel down. report.ts reads the lines.
 *
 * Where a kernel is booted again after a test that hung, it passes over what was told before: EROFS_NBD_LAB_DONE names
 * a file in the shared directory with these tests.
 */
import { appendFileSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import type { RunnerTask } from "vitest";
import { beforeEach } from "vitest";
import { LIMITS } from "../../../limits.mjs";
import { keyOf, type ReportLine, TOLD_BEFORE } from "../report/report-lines.ts";

const share = process.env["EROFS_NBD_LAB_SHARE"];

if (process.env["EROFS_NBD_LAB_REPORT"] !== undefined && share !== undefined) {
  const path = join(share, "results.jsonl");
  const doneFile = process.env["EROFS_NBD_LAB_DONE"];
  const done = new Set<string>(doneFile === undefined ? [] : JSON.parse(readFileSync(doneFile, "utf8")));
  beforeEach(({ task, skip }) => {
    const names: string[] = [];
    for (let at: RunnerTask | undefined = task; at !== undefined; at = at.suite) names.unshift(at.name);
    const file = relative(process.cwd(), task.file.filepath);
    if (done.has(keyOf(file, names))) skip(TOLD_BEFORE);
    if (task.timeout > LIMITS.longTestMs) throw new Error("The test asks for more time than there is");
    const line: ReportLine = { type: "started", file, names };
    appendFileSync(path, `${JSON.stringify(line)}\n`);
  });
}
