/**
 * Runs the guest suite once on one kernel and declares each of its tests as a test of this run, under the kernel's
 * name. Each linux-*.test.ts calls `declareKernel` at its top level: the guest runs while that file is collected.
 *
 * A test that did not report is a failure, never missing. One that hangs, or takes the kernel down, costs itself: the
 * kernel is booted again for the tests that are left. Where kernels can't be booted at all the suite is skipped with
 * the reason, but fails under CI.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { TestContext } from "vitest";
import { describe, test } from "vitest";
import { removeIfInterrupted } from "../../tools/litter.mjs";
import { LIMITS, MAX_BOOTS } from "../limits.mjs";
import { boot, PROJECT_DIR } from "./lab/boot.mjs";
import { HOST_KERNEL, hostObstacle } from "./lab/host.mjs";
import { filesOfGuest, GUEST_DIR, plannedFiles } from "./lab/plan.mjs";
import {
  type Boot,
  type GuestEnd,
  type GuestTest,
  type Rest,
  readReport,
  restOf,
} from "./lab/report/report.ts";
import type { KernelSeries } from "./lab/types.ts";

const SUITE = "test/kernel/lab/guest/guest-suite.mjs";
const TIME_LIMIT_MS = Number(process.env["EROFS_NBD_GUEST_TIMEOUT_MS"] ?? LIMITS.kernelMs);
/** A boot that could not be over in this is not begun. */
const SHORTEST_BOOT_MS = LIMITS.testMs;
/** Words of the names of files that were asked for. */
const wanted = (process.env["EROFS_NBD_GUEST_FILTER"] ?? "").split(" ").filter((word) => word !== "");
/** In the shared directory: tests that a former boot has told of. */
const DONE_FILE = "done.json";
const EVIDENCE_LINES = 40;

/** What came of running the suite; `obstacle` when it could not run at all. */
type Outcome = { readonly tests: readonly GuestTest[] } | { readonly obstacle: string };

/** How the runner ended, or why it could not start. */
type Run = Omit<GuestEnd, "evidence"> | { readonly obstacle: string };

/**
 * Runs the suite and declares its tests.
 * @param kernel a series of the lab, or "host" for this machine's own kernel
 * @param guest which of its guests, where its files are shared out among two (lab/plan.mjs)
 */
export async function declareKernel(
  kernel: KernelSeries | typeof HOST_KERNEL,
  guest: "first" | "second" = "first",
): Promise<void> {
  const files = filesOfGuest(kernel, guest, wanted).map((name) => `${GUEST_DIR}/${name}`);
  if (files.length === 0 && plannedFiles(kernel, wanted).length > 0) {
    describe(`linux ${kernel}, ${guest} guest`, () => {
      test.skip("the other guest of this kernel has the files that were asked for", () => undefined);
    });
    return;
  }
  const outcome = await runSuite(kernel, files);
  describe(kernel === HOST_KERNEL ? "this machine's kernel" : `linux ${kernel}`, () => {
    if ("obstacle" in outcome) declareObstacle(outcome.obstacle);
    else declareTests(outcome.tests);
  });
}

async function runSuite(
  kernel: KernelSeries | typeof HOST_KERNEL,
  files: readonly string[],
): Promise<Outcome> {
  if (files.length === 0) return { obstacle: `no guest test file matches ${wanted.join(" ")}` };
  const place = join(PROJECT_DIR, ".cache", "kernel-tests");
  mkdirSync(place, { recursive: true });
  const directory = mkdtempSync(join(place, `${kernel}-`));
  const keep = removeIfInterrupted(directory);
  const boots: Boot[] = [];
  const endsAtMs = Date.now() + TIME_LIMIT_MS;
  let rest: ReturnType<typeof restOf> = { files, done: [] };
  while (rest !== undefined && boots.length < MAX_BOOTS) {
    const leftMs = endsAtMs - Date.now();
    if (boots.length > 0 && leftMs < SHORTEST_BOOT_MS) break;
    const boot = await runOnce(kernel, rest, join(directory, String(boots.length + 1)), leftMs);
    if ("obstacle" in boot) {
      // What former boots have told stays true.
      if (boots.length > 0) break;
      rmSync(directory, { recursive: true, force: true });
      return boot;
    }
    boots.push(boot);
    // On this machine's own kernel what a test has left cannot be got rid of.
    rest = kernel === HOST_KERNEL ? undefined : restOf(boots, files);
    if (rest !== undefined) process.stderr.write(`linux ${kernel}: boot ${boots.length} ended early\n`);
  }
  keep();
  const tests = readReport(boots, files);
  // What a failed run left is evidence, what a passed one left is litter.
  if (tests.every((each) => each.state !== "failed")) rmSync(directory, { recursive: true, force: true });
  return { tests };
}

/** Boots once, for what is left to run. */
async function runOnce(
  kernel: KernelSeries | typeof HOST_KERNEL,
  { files, done }: Rest,
  directory: string,
  timeoutMs: number,
): Promise<Boot | { readonly obstacle: string }> {
  mkdirSync(directory);
  writeFileSync(join(directory, DONE_FILE), JSON.stringify(done));
  const words = [process.execPath, SUITE, ...files];
  const run = await (kernel === HOST_KERNEL
    ? runHere(words, directory, timeoutMs)
    : runInGuest(kernel, words, directory, timeoutMs));
  if ("obstacle" in run) return run;
  const results = join(directory, "results.jsonl");
  const text = existsSync(results) ? readFileSync(results, "utf8") : "";
  return { text, end: { ...run, evidence: evidenceIn(directory) } };
}

const soak = { EROFS_NBD_SOAK: process.env["EROFS_NBD_SOAK"] ?? "1" };

const build = process.env["EROFS_NBD_FORMER"];
const former = build === undefined ? {} : { EROFS_NBD_FORMER: build };

/** What the suite is told beside its files. */
function environmentOf(directory: string): Record<string, string> {
  return {
    EROFS_NBD_LAB_REPORT: "1",
    EROFS_NBD_LAB_DONE: join(directory, DONE_FILE),
    NO_COLOR: "1",
    ...soak,
    ...former,
  };
}

async function runInGuest(
  kernel: KernelSeries,
  words: readonly string[],
  directory: string,
  timeoutMs: number,
): Promise<Run> {
  try {
    const { exitCode } = await boot({
      kernel,
      command: words,
      env: { ...environmentOf(directory), CI: process.env["CI"] ?? "" },
      outputDir: directory,
      timeoutMs,
    });
    return { died: undefined, exitCode };
  } catch (error) {
    const { code, message, hint } = error as Error & { code?: string; hint?: string };
    const isEmulatorFault = code === "ERR_LAB_EMULATOR";
    if (code !== "ERR_LAB_BOOT" && !isEmulatorFault) {
      return { obstacle: hint === undefined ? message : `${message} (${hint})` };
    }
    return { died: message.split("\n")[0], exitCode: undefined, isEmulatorFault };
  }
}

/** The guest suite as a child of this process, on this machine's kernel. */
async function runHere(words: readonly string[], directory: string, timeoutMs: number): Promise<Run> {
  const obstacle = hostObstacle();
  if (obstacle !== undefined) return { obstacle };
  const [stdout, stderr] = ["stdout", "stderr"].map((name) => openSync(join(directory, name), "w"));
  const [file = "", ...args] = words;
  const child = spawn(file, args, {
    cwd: PROJECT_DIR,
    stdio: ["ignore", stdout, stderr],
    env: { ...process.env, ...environmentOf(directory), EROFS_NBD_LAB_SHARE: directory },
    timeout: timeoutMs,
    killSignal: "SIGKILL",
  });
  for (const fd of [stdout, stderr]) if (fd !== undefined) closeSync(fd);
  const [exitCode, signal] = (await once(child, "exit")) as [number | null, string | null];
  return exitCode === null
    ? { died: `The runner was killed by ${signal}`, exitCode: undefined }
    : { died: undefined, exitCode };
}

/** The ends of what the guest printed and of its kernel log. */
function evidenceIn(directory: string): string {
  const log = existsSync(join(directory, "dmesg")) ? "dmesg" : "console.log";
  return ["stdout", "stderr", log]
    .map((name) => ({ name, path: join(directory, name) }))
    .filter(({ path }) => existsSync(path))
    .map(({ name, path }) => {
      const lines = readFileSync(path, "utf8").trimEnd().split("\n").slice(-EVIDENCE_LINES);
      return `--- ${name}, last lines (all of it: ${path}) ---\n${lines.join("\n")}`;
    })
    .join("\n");
}

function declareObstacle(obstacle: string): void {
  test("boots and runs its tests", (context) => {
    if ((process.env["CI"] ?? "") !== "") throw new Error(obstacle);
    process.stderr.write(`skipped: ${obstacle}\n`);
    context.skip(obstacle);
  });
}

function declareTests(tests: readonly GuestTest[]): void {
  for (const file of new Set(tests.map((each) => each.file))) {
    describe(file.replace(`${GUEST_DIR}/`, ""), () => {
      for (const each of tests.filter((candidate) => candidate.file === file)) {
        test(each.names.join(" > "), (context) => replay(each, context));
      }
    });
  }
}

function replay(result: GuestTest, context: TestContext): void {
  if (result.state === "skipped") context.skip(result.note);
  showDuration(context, result.durationMs);
  if (result.state === "passed") return;
  const [first, ...more] = result.errors;
  const parts = [
    first?.message ?? "failed without an error",
    first?.diff,
    ...more.map((error) => error.message),
  ];
  if (result.dmesg !== undefined) parts.push(`--- kernel log ---\n${result.dmesg}`);
  const error = new Error(parts.filter((part) => part !== undefined && part !== "").join("\n"));
  error.name = first?.name ?? "Error";
  // The paths are the same inside and outside, so the guest's stack leads to the right line; ours would mislead.
  error.stack = `${error.name}: ${error.message}\n${framesOf(first?.stack ?? "")}`;
  throw error;
}

function framesOf(stack: string): string {
  return stack
    .split("\n")
    .filter((line) => /^\s+at /.test(line))
    .join("\n");
}

/** The time the test took in the guest, not the instant its replay takes: vitest writes its own figure afterwards. */
function showDuration(context: TestContext, durationMs: number): void {
  const { result } = context.task;
  if (result === undefined) return;
  Object.defineProperty(result, "duration", {
    enumerable: true,
    get: () => durationMs,
    set: () => undefined,
  });
}
