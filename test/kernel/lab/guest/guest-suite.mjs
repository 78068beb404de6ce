// @ts-check
/**
 * Runs the kernel tests right here: inside a guest, or on a host with --host. Arguments as for
 * `vitest run`, but for --reporter.
 *
 * One file after the other in one process: there is one kernel, one /dev/nbd and one processor. It starts vitest
 * through its API, because reading a configuration file alone takes seconds in a guest. With EROFS_NBD_LAB_REPORT
 * in the environment every result is also written into $EROFS_NBD_LAB_SHARE, see guest-reporter.ts.
 */
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { BaseSequencer, parseCLI, startVitest } from "vitest/node";
import { LIMITS } from "../../../limits.mjs";

/** How vitest begins the error of a test or hook that was out of time. */
const OUT_OF_TIME = /^(Test|Hook) timed out in /;
/** The other reporters say what they have heard, too. */
const LAST_LINES_MS = 500;
const root = fileURLToPath(new URL("../../../..", import.meta.url));
const share = process.env["EROFS_NBD_LAB_SHARE"];
const reports = process.env["EROFS_NBD_LAB_REPORT"] !== undefined && share !== undefined;
const here = (/** @type {string} */ name) => fileURLToPath(new URL(name, import.meta.url));

/** Files in the order of their names, on every kernel and every day. */
class ByName extends BaseSequencer {
  /**
   * @override
   * @param {import("vitest/node").TestSpecification[]} files
   */
  async sort(files) {
    return files.toSorted((one, other) => (one.moduleId < other.moduleId ? -1 : 1));
  }
}

/**
 * Ends this process where it cannot go on with clean hands: when vitest is stuck (a test process that the kernel holds
 * in a read that never ends can neither report nor be killed), and after a test that was out of time, because its code,
 * processes and devices are still there. The host boots the kernel again for the tests that are left; see
 * linux-suite.ts.
 * @type {import("vitest/node").Reporter}
 */
const lastResort = {
  onTestModuleCollected: () => expectNews(LIMITS.silenceMs),
  onTestCaseReady: (test) => expectNews(Math.min(limitOf(test) + LIMITS.lateMs, LIMITS.silenceMs)),
  onTestCaseResult: (test) => {
    expectNews(LIMITS.silenceMs);
    const late = (test.result().errors ?? []).find(({ message }) => OUT_OF_TIME.test(message));
    if (late !== undefined && reports) stop(`${test.fullName}: ${late.message}`);
  },
  onTestRunEnd: () => expectNews(LIMITS.lateMs),
};

/**
 * A test's own limit, which vitest keeps but does not tell of.
 * @param {import("vitest/node").TestCase} test
 */
function limitOf(test) {
  const { task } = /** @type {{ task?: { timeout?: number } }} */ (/** @type {unknown} */ (test));
  return task?.timeout ?? LIMITS.longTestMs;
}

/** @type {NodeJS.Timeout | undefined} */
let alarm;

/** @param {number} limitMs until the running test is reported to hang, named by what is missing, if nothing comes */
function expectNews(limitMs) {
  clearTimeout(alarm);
  alarm = setTimeout(() => {
    process.stderr.write(`Nothing was heard of the test process for ${limitMs / 1000} s\n`);
    process.exit(1);
  }, limitMs);
  alarm.unref();
}

/** @param {string} why the test is told of already; what has begun since then has not run */
function stop(why) {
  if (share !== undefined)
    appendFileSync(join(share, "results.jsonl"), `${JSON.stringify({ type: "stopped", why })}\n`);
  process.stderr.write(`Ending the run: ${why}\n`);
  setTimeout(() => process.exit(1), LAST_LINES_MS);
}

const { filter, options } = parseCLI(["vitest", "run", ...process.argv.slice(2)]);
/** @type {import("vitest/node").InlineConfig["reporters"]} */
const reporters = reports
  ? ["verbose", lastResort, [here("guest-reporter.ts"), { directory: share }]]
  : ["verbose", lastResort];
const vitest = await startVitest("test", filter, {
  testTimeout: LIMITS.testMs,
  hookTimeout: LIMITS.hookMs,
  ...options,
  root,
  config: false,
  watch: false,
  include: ["test/kernel/guest/**/*.test.ts"],
  setupFiles: [here("guest-setup.ts")],
  pool: "forks",
  poolOptions: { forks: { singleFork: true, isolate: false } },
  fileParallelism: false,
  sequence: { sequencer: ByName },
  reporters,
});
await vitest.close();
