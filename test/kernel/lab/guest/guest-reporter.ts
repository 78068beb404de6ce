/**
 * The vitest reporter inside a guest: one JSON line per fact, written at once, so that a guest that dies midway has
 * still told what it ran. Loaded by guest.vitest.config.mjs; report.ts on the host reads the lines.
 *
 * Failed tests carry the end of the kernel log as it was when they failed. It prints nothing.
 */
import { appendFileSync } from "node:fs";
import { join, relative } from "node:path";
import type { Reporter, SerializedError, TestCase, TestModule, TestRunEndReason } from "vitest/node";
import { kernelLogTail } from "../report/kernel-log.ts";
import type { ReportedError, ReportLine } from "../report/report-lines.ts";

const DMESG_LINES = 30;

/** Writes `results.jsonl` into $EROFS_NBD_LAB_SHARE. */
export class GuestReporter implements Reporter {
  readonly #path: string;
  readonly #ended: Set<string> = new Set();

  constructor(options: { readonly directory: string }) {
    this.#path = join(options.directory, "results.jsonl");
  }

  onTestModuleCollected(module: TestModule): void {
    const tests = [...module.children.allTests()].map(namesOf);
    this.#write({ type: "collected", file: fileOf(module), tests });
  }

  onTestCaseResult(test: TestCase): void {
    const result = test.result();
    if (result.state === "pending") return;
    const failed = result.state === "failed";
    this.#write({
      type: "test",
      file: fileOf(test.module),
      names: namesOf(test),
      state: result.state,
      durationMs: test.diagnostic()?.duration ?? 0,
      note: result.state === "skipped" ? result.note : undefined,
      errors: (result.errors ?? []).map(plainError),
      dmesg: failed ? kernelLogTail(DMESG_LINES) : undefined,
    });
  }

  onTestModuleEnd(module: TestModule): void {
    const suites = [...module.children.allSuites()];
    const errors = [module, ...suites].flatMap((part) => part.errors()).map(plainError);
    const dmesg = errors.length > 0 ? kernelLogTail(DMESG_LINES) : undefined;
    this.#ended.add(module.moduleId);
    this.#write({ type: "file", file: fileOf(module), errors, dmesg });
  }

  onTestRunEnd(
    modules: readonly TestModule[],
    unhandled: readonly SerializedError[],
    reason: TestRunEndReason,
  ): void {
    // A module that could not be imported has no end of its own.
    for (const module of modules) if (!this.#ended.has(module.moduleId)) this.onTestModuleEnd(module);
    this.#write({ type: "end", reason, errors: unhandled.map(plainError) });
  }

  #write(line: ReportLine): void {
    appendFileSync(this.#path, `${JSON.stringify(line)}\n`);
  }
}

function fileOf(module: TestModule): string {
  return relative(process.cwd(), module.moduleId);
}

/** The describe titles and the test's own, outermost first. */
function namesOf(test: TestCase): string[] {
  const names = [test.name];
  for (let at = test.parent; at.type === "suite"; at = at.parent) names.unshift(at.name);
  return names;
}

function plainError(error: SerializedError): ReportedError {
  const diff: unknown = error["diff"];
  return {
    name: error.name ?? "Error",
    message: error.message,
    stack: error.stack,
    diff: typeof diff === "string" ? diff : undefined,
  };
}

// biome-ignore lint/style/noDefaultExport: vitest loads a reporter named by its path through the default export
export default GuestReporter;
