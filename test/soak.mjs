// @ts-check
/**
 * `npm run soak`: the kernel tests with larger counts, and again and again: for hours and thousands of faults, which
 * `npm test` has no time for.
 *
 * The tests are the same. Those that repeat something (kills, cuts, faults of every kind) do it EROFS_NBD_SOAK times as
 * often (test/kernel/guest/soak.ts), and their limits grow with it (test/limits.mjs).
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const RUN = fileURLToPath(new URL("run.mjs", import.meta.url));
const USAGE = `usage: npm run soak -- [--factor N] [--hours H] [OPTIONS OF npm test]

  --factor N   repeat things N times as often as npm test does (default 20)
  --hours H    go on with another round until so many hours are over (default: one round)

Examples: npm run soak -- --factor 100 --kernel 7.2 --guest chaos     npm run soak -- --hours 8
`;

/** @type {import("node:child_process").ChildProcess | undefined} */
let running;

/** @param {string[]} argv */
function parse(argv) {
  const rest = [...argv];
  let factor = 20;
  let hours = 0;
  /** @type {string[]} */
  const passed = [];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === "--factor") factor = Number(rest.shift());
    else if (word === "--hours") hours = Number(rest.shift());
    else passed.push(word);
  }
  const isSound = Number.isInteger(factor) && factor >= 1 && hours >= 0;
  return isSound && !passed.includes("--help") ? { factor, hours, passed } : undefined;
}

/**
 * One round; its exit code.
 * @param {number} factor
 * @param {readonly string[]} words
 * @returns {Promise<number>}
 */
function round(factor, words) {
  const child = spawn(process.execPath, [RUN, "--only-tests", "--project", "kernel", ...words], {
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, EROFS_NBD_SOAK: String(factor) },
  });
  running = child;
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      if (signal !== null) process.exit(1);
      resolve(code ?? 1);
    });
  });
}

const request = parse(process.argv.slice(2));
if (request === undefined) {
  process.stdout.write(USAGE);
  process.exit(process.argv.includes("--help") ? 0 : 1);
}
for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"]))
  process.on(signal, () => void running?.kill(signal));
const endsAtMs = Date.now() + request.hours * 3_600_000;
let rounds = 0;
let failedRounds = 0;
do {
  rounds += 1;
  if ((await round(request.factor, request.passed)) !== 0) failedRounds += 1;
  process.stdout.write(`soak: ${rounds} rounds, ${failedRounds} with failures\n`);
} while (Date.now() < endsAtMs);
process.exitCode = failedRounds === 0 ? 0 : 1;
