// @ts-check
/**
 * `npm test`: builds, checks style and types, runs every test project and ends with one line that counts. Also what
 * .ci/run runs.
 *
 * Plain JavaScript, so that it starts before anything is built. A failed check doesn't keep the tests from running,
 * but the run from passing; without a build there is nothing to test.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { formerBuild } from "./kernel/former.mjs";
import { HOST_KERNEL, hostObstacle } from "./kernel/lab/host.mjs";
import { kernelTable } from "./kernel/lab/report/table.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const USAGE = `usage: npm test -- [OPTIONS] [VITEST OPTIONS AND FILTERS]

  --host              kernel tests on this machine's own kernel (needs root, nbd and erofs), not in the lab's
  --kernel LIST       only these kernels of the lab: 6.1, 6.12, 7.2, 6.12-smp
  --guest WORDS       only the kernel test files whose names have one of these words
  --only-tests        no style and type checks
  --built             take dist/ as it is
  --help

Examples: npm test -- --project unit       npm test -- --project kernel --kernel 6.12 --guest netlink
`;

/** @param {string[]} argv */
function parse(argv) {
  /** @type {{ build: boolean, checks: boolean, help: boolean, env: Record<string, string>, rest: string[] }} */
  const request = { build: true, checks: true, help: false, env: {}, rest: [] };
  const rest = [...argv];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === "--host") request.env["EROFS_NBD_KERNELS"] = HOST_KERNEL;
    else if (word === "--kernel") request.env["EROFS_NBD_KERNELS"] = rest.shift() ?? "";
    else if (word === "--guest") request.env["EROFS_NBD_GUEST_FILTER"] = rest.shift() ?? "";
    else if (word === "--only-tests") request.checks = false;
    else if (word === "--built") request.build = false;
    else if (word === "--help") request.help = true;
    else if (word === "--project" && rest[0] === "kernel") request.rest.push(word, `${rest.shift()}*`);
    else request.rest.push(word);
  }
  return request;
}

/**
 * Runs a program of node_modules with this Node; true when it ended with 0.
 * @param {string} title
 * @param {string} packageName
 * @param {string} program
 * @param {readonly string[]} args
 * @param {Record<string, string>} [env]
 */
function step(title, packageName, program, args, env = {}) {
  process.stdout.write(`\n== ${title}\n`);
  const file = createRequire(import.meta.url).resolve(`${packageName}/package.json`);
  const { bin } = JSON.parse(readFileSync(file, "utf8"));
  const path = join(dirname(file), typeof bin === "string" ? bin : bin[program]);
  const { status } = spawnSync(process.execPath, [path, ...args], {
    cwd: ROOT,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, ...env },
  });
  return status === 0;
}

/** Makes the programs' bundles of what the compiler has made; true when that worked. */
function bundle() {
  const { status } = spawnSync(process.execPath, ["tools/bundle.mjs"], { cwd: ROOT, stdio: "inherit" });
  return status === 0;
}

/**
 * Counts from vitest's JSON report. A file that failed without any test counts as one failure, an unhandled error too.
 * @param {string} path
 */
function count(path) {
  if (!existsSync(path)) return { passed: 0, failed: 1, skipped: 0 };
  const report = JSON.parse(readFileSync(path, "utf8"));
  /** @type {{ status: string, assertionResults: unknown[] }[]} */
  const files = report.testResults;
  const brokenFiles = files.filter(
    (file) => file.status === "failed" && file.assertionResults.length === 0,
  ).length;
  const failed = report.numFailedTests + brokenFiles;
  return {
    passed: report.numPassedTests,
    failed: failed === 0 && !report.success ? 1 : failed,
    skipped: report.numPendingTests + report.numTodoTests,
  };
}

/**
 * Prints the table of the kernel tests; how many of its cells are missing.
 * @param {string} path vitest's JSON report
 * @param {ReturnType<typeof parse>} request
 */
function showKernels(path, { env, rest }) {
  if (!existsSync(path)) return 0;
  const words = (/** @type {string} */ name) => env[name] ?? process.env[name] ?? "";
  const { text, missing } = kernelTable(JSON.parse(readFileSync(path, "utf8")), {
    kernels: (words("EROFS_NBD_KERNELS") || "6.1,6.12,7.2,6.12-smp").split(",").filter((name) => name !== ""),
    wanted: words("EROFS_NBD_GUEST_FILTER")
      .split(" ")
      .filter((word) => word !== ""),
    isWhole: rest.length === 0,
  });
  if (text !== "") process.stdout.write(`\n${text}`);
  if (missing > 0) process.stdout.write(`${missing} of them did not run, and count as failures\n`);
  return missing;
}

/** Whether upgrades from the version before are among what was asked for. @param {ReturnType<typeof parse>} request */
function hasUpgrades({ rest, env }) {
  if (rest.length > 0 && !rest.includes("kernel*")) return false;
  const words = (env["EROFS_NBD_GUEST_FILTER"] ?? "").split(" ").filter((word) => word !== "");
  return words.length === 0 || words.some((word) => "former-version.test.ts".includes(word));
}

/** Makes what the upgrades from the version before need, if this clone has its history. */
function buildFormer() {
  const build = formerBuild();
  if (build !== undefined) return { EROFS_NBD_FORMER: build };
  process.stdout.write("no history of the version before here: upgrades from it are skipped\n");
  return {};
}

function main() {
  const request = parse(process.argv.slice(2));
  if (request.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const obstacle = request.env["EROFS_NBD_KERNELS"] === HOST_KERNEL ? hostObstacle() : undefined;
  if (obstacle !== undefined) {
    process.stderr.write(`${obstacle}\nhint: without --host the tests boot kernels of their own\n`);
    return 1;
  }
  if (request.build && !(step("build", "typescript", "tsc", ["-p", "tsconfig.build.json"]) && bundle())) {
    process.stdout.write("\n0 passed, 1 failed, 0 skipped\n");
    return 1;
  }
  let failedChecks = 0;
  if (request.checks) {
    if (!step("style", "@biomejs/biome", "biome", ["check", "."])) failedChecks += 1;
    // The build has checked the declarations we ship; those of the test tools contradict each other.
    if (!step("types", "typescript", "tsc", ["-p", "tsconfig.json", "--noEmit", "--skipLibCheck"]))
      failedChecks += 1;
    if (
      !step("types of the report's page", "typescript", "tsc", ["-p", "src/chaos/report/page/tsconfig.json"])
    )
      failedChecks += 1;
    if (!step("types of the lab", "typescript", "tsc", ["-p", "test/kernel/lab/tsconfig.json"]))
      failedChecks += 1;
  }
  const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-test-"));
  try {
    const json = join(directory, "report.json");
    const reporter = (process.env["CI"] ?? "") === "" ? "default" : "verbose";
    const reports = [`--reporter=${reporter}`, "--reporter=json", `--outputFile.json=${json}`];
    const former = hasUpgrades(request) ? buildFormer() : {};
    const env = { ...former, ...request.env };
    const passed = step("tests", "vitest", "vitest", ["run", ...reports, ...request.rest], env);
    const counts = count(json);
    const missing = showKernels(json, request);
    const failed = counts.failed + missing + failedChecks + (passed || counts.failed > 0 ? 0 : 1);
    process.stdout.write(`\n${counts.passed} passed, ${failed} failed, ${counts.skipped} skipped\n`);
    return failed === 0 ? 0 : 1;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

process.exitCode = main();
