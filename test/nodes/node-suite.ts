/**
 * Runs smoke.ts, and some of the unit tests, with another Node.js and declares each result as a test of this run, under
 * that version's name. Each node-*.test.ts calls one of the two functions at its top level.
 */
import { type ExecFileException, execFile } from "node:child_process";
import { copyFileSync, cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, test } from "vitest";
import { PROJECT_DIR } from "../kernel/lab/boot.mjs";
import { prepareArm64, prepareDependencies, prepareNode } from "./node-packages.mjs";

/** Quick unit tests of code that touches the system or Node's own classes, as prefixes of their paths. */
const PORTABLE = [
  "test/unit/netlink/",
  "test/unit/sys/",
  "test/unit/source/file-source",
  "test/unit/source/open-image",
  "test/unit/nbd/",
  "test/unit/journal/journal",
  "test/unit/serving/served-links",
  "test/unit/worker/links",
  "test/unit/worker/worker-process",
  "test/unit/cli/output",
  "test/unit/library/",
];
const LIMIT_MS = 600_000;

/** A check's name and why it failed, or null. */
interface Outcome {
  readonly name: string;
  readonly problem: string | null;
}

/** Declares the results of smoke.ts and of the portable unit tests with a version of Node.js. */
export async function declareNode(version: string): Promise<void> {
  const outcomes = await outcomesOr(async () => {
    const node = await prepareNode(version, process.arch);
    return [...(await smoke([node], join(PROJECT_DIR, "node_modules"), "link")), ...(await unitTests(node))];
  });
  declare(`Node.js ${version}`, outcomes);
}

/** Declares the results of smoke.ts with Node.js on an emulated 64-bit ARM processor. */
export async function declareArm64(version: string): Promise<void> {
  const outcomes = await outcomesOr(async () => {
    const node = [...(await prepareArm64()), await prepareNode(version, "arm64")];
    return await smoke(node, await prepareDependencies("arm64"), "copy");
  });
  declare(`Node.js ${version} on arm64`, outcomes);
}

/** A fault before the first check, such as a failed download, is one failure. */
async function outcomesOr(work: () => Promise<Outcome[]>): Promise<Outcome[]> {
  try {
    return await work();
  } catch (error) {
    return [{ name: "starts and runs its checks", problem: (error as Error).message }];
  }
}

/**
 * @param node the words that start it
 * @param modules node_modules with packages for that processor
 * @param how whether dist/ is a link, whose code finds the project's own node_modules, or a copy, whose code finds `modules`
 */
async function smoke(node: readonly string[], modules: string, how: "link" | "copy"): Promise<Outcome[]> {
  const directory = mkdtempSync(join(tmpdir(), "node-"));
  try {
    copyFileSync(join(PROJECT_DIR, "package.json"), join(directory, "package.json"));
    symlinkSync(modules, join(directory, "node_modules"));
    const dist = join(directory, "dist");
    if (how === "link") symlinkSync(join(PROJECT_DIR, "dist"), dist);
    else cpSync(join(PROJECT_DIR, "dist"), dist, { recursive: true });
    const compiler = programOf("typescript", "tsc");
    const out = join(directory, "smoke");
    await run([process.execPath, compiler, "-p", "test/nodes/tsconfig.json", "--outDir", out]);
    const words = [...node, join(out, "test/nodes/smoke.js"), join(dist, "src/cli/main.cjs"), ...node];
    const { stdout, problem } = await run(words);
    const told = stdout
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as Outcome);
    return [...told, { name: "the smoke run comes to its end", problem }];
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function unitTests(node: string): Promise<Outcome[]> {
  const directory = mkdtempSync(join(tmpdir(), "node-"));
  try {
    const report = join(directory, "report.json");
    const reporters = ["--reporter=json", `--outputFile.json=${report}`];
    const vitest = [programOf("vitest", "vitest"), "run", "--project", "unit", ...reporters];
    const { problem } = await run([node, ...vitest, "--minWorkers=1", "--maxWorkers=1", ...PORTABLE]);
    const told = outcomesIn(report);
    return told.length > 0 ? told : [{ name: "the unit tests run", problem: problem ?? "no test ran" }];
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

interface Report {
  readonly testResults: readonly {
    readonly name: string;
    readonly message: string;
    readonly status: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

/** One outcome for each file. Single tests are listed by the run with the project's own Node.js. */
function outcomesIn(path: string): Outcome[] {
  const { testResults } = JSON.parse(readFileSync(path, "utf8")) as Report;
  return testResults.map(({ name, message, status, assertionResults }) => {
    const failed = assertionResults.filter((each) => each.status === "failed");
    const problems = failed.map(
      ({ fullName, failureMessages }) => `${fullName}: ${failureMessages.join("\n")}`,
    );
    const problem = problems.length > 0 ? problems.join("\n\n") : message;
    return { name: name.replace(`${PROJECT_DIR}/`, ""), problem: status === "passed" ? null : problem };
  });
}

/** A program of one of the project's packages. */
function programOf(packageName: string, program: string): string {
  const file = createRequire(import.meta.url).resolve(`${packageName}/package.json`);
  const { bin } = JSON.parse(readFileSync(file, "utf8")) as { bin: string | Record<string, string> };
  return join(dirname(file), typeof bin === "string" ? bin : (bin[program] ?? ""));
}

/** Runs a program to its end; `problem` is why it failed. */
function run(words: readonly string[]): Promise<{ stdout: string; problem: string | null }> {
  const [file = "", ...args] = words;
  const own = /^(VITEST|VITE_|TEST$|NODE_ENV$|NODE_OPTIONS$)/;
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !own.test(name)));
  const options = { cwd: PROJECT_DIR, timeout: LIMIT_MS, maxBuffer: 1 << 26, env };
  return new Promise((done) => {
    execFile(file, args, options, (error: ExecFileException | null, stdout, stderr) => {
      done({ stdout, problem: error === null ? null : `${error.message}\n${stderr}` });
    });
  });
}

function declare(title: string, outcomes: readonly Outcome[]): void {
  describe(title, () => {
    for (const { name, problem } of outcomes) {
      test(name, () => {
        if (problem !== null) throw new Error(problem);
      });
    }
  });
}
