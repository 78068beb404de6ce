// @ts-check
/**
 * Runs the kernel tests right here: inside a guest, or on a host with --host. Arguments as for
 * `vitest run`, but for --reporter.
 *
 * One file after the other in one process: there is one kernel, one /dev/nbd and one processor. It starts vitest
 * through its API, because reading a configuration file alone takes seconds in a guest. With EROFS_NBD_LAB_REPORT
 * in the environment every result is also written into $EROFS_NBD_LAB_SHARE, see guest-reporter.ts.
 */
import { fileURLToPath } from "node:url";
import { BaseSequencer, parseCLI, startVitest } from "vitest/node";

/** Longer than any test may take, shorter than the guest's own limit. */
const SILENCE_LIMIT_MS = 300_000;
const END_LIMIT_MS = 15_000;
const root = fileURLToPath(new URL("../../..", import.meta.url));
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
 * Ends this process when vitest can't: a test process that the kernel holds in a read that never ends can neither
 * report nor be killed.
 * @type {import("vitest/node").Reporter}
 */
const lastResort = {
  onTestModuleCollected: () => expectNews(SILENCE_LIMIT_MS, "said nothing more"),
  onTestCaseReady: () => expectNews(SILENCE_LIMIT_MS, "said nothing more"),
  onTestCaseResult: () => expectNews(SILENCE_LIMIT_MS, "said nothing more"),
  onTestRunEnd: () => expectNews(END_LIMIT_MS, "did not end after its last test"),
};

/** @type {NodeJS.Timeout | undefined} */
let alarm;

/**
 * @param {number} limitMs
 * @param {string} otherwise what the test process did if nothing else comes meanwhile
 */
function expectNews(limitMs, otherwise) {
  clearTimeout(alarm);
  alarm = setTimeout(() => {
    process.stderr.write(`The test process ${otherwise} (waited ${limitMs} ms)\n`);
    process.exit(1);
  }, limitMs);
  alarm.unref();
}

const { filter, options } = parseCLI(["vitest", "run", ...process.argv.slice(2)]);
/** @type {import("vitest/node").InlineConfig["reporters"]} */
const reporters = reports
  ? ["verbose", lastResort, [here("guest-reporter.ts"), { directory: share }]]
  : ["verbose", lastResort];
const vitest = await startVitest("test", filter, {
  testTimeout: 120_000,
  hookTimeout: 60_000,
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
