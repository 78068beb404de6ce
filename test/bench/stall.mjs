// @ts-check
/**
 * How long reads stand still when what serves them is broken, on a real kernel, run by hand:
 *
 *   npm run bench:stall -- [--kernel 6.1|6.12|6.12-smp|7.2] [--io-timeout MS] [CHAOS OPTIONS]
 *
 * Attaches an image of random bytes in that kernel and lets `erofs-nbd chaos` loose on it: its options (--kills,
 * --what, --interval, --seed, --depth, --large, …) and its exit code are this program's. Prints the summary and one
 * JSON line. In a slow kernel leave a worker's successor the time to start: --interval 4000.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { boot } from "../kernel/lab/boot.mjs";

const CLI = fileURLToPath(new URL("../../dist/src/cli/main.cjs", import.meta.url));
const IMAGE_BYTES = 64 << 20;
const LIMIT_MS = 3_600_000;

const args = process.argv.slice(2);
const kernel = /** @type {import("../kernel/lab/types.ts").KernelSeries} */ (take("--kernel") ?? "6.12");
const ioTimeoutMs = take("--io-timeout") ?? "1000";

process.exitCode = process.env["EROFS_NBD_LAB_KERNEL"] === undefined ? await bootAndMeasure() : measure();

/** Takes an option out of the arguments; the rest is for chaos. @param {string} name */
function take(name) {
  const at = args.indexOf(name);
  return at < 0 ? undefined : args.splice(at, 2)[1];
}

async function bootAndMeasure() {
  const { exitCode } = await boot({
    kernel,
    command: [process.execPath, fileURLToPath(import.meta.url), ...process.argv.slice(2)],
    timeoutMs: LIMIT_MS,
    onOutput: (stream, text) => process[stream].write(text),
  });
  return exitCode;
}

function measure() {
  const directory = mkdtempSync(join(tmpdir(), "stall-"));
  const image = join(directory, "image");
  writeFileSync(image, randomBytes(IMAGE_BYTES));
  const device = run(["attach", "--io-timeout", ioTimeoutMs, image], "pipe").stdout.trim();
  const chaos = run(["chaos", device, "--json", ...args], "pipe");
  const { baseline, totals, kinds, verdict, problems, faults } = JSON.parse(chaos.stdout);
  const fellBack = faults.filter(
    (/** @type {any} */ { kind, outcome }) =>
      outcome?.level === "reconnect" && ["worker", "hang"].includes(kind),
  );
  const causes = fellBack.map((/** @type {any} */ { outcome }) => outcome.cause);
  process.stdout.write(
    `${JSON.stringify({
      kernel: process.env["EROFS_NBD_LAB_KERNEL"],
      args,
      verdict,
      problems,
      baseline,
      totals,
      kinds,
      fellBack: causes,
    })}\n`,
  );
  run(["detach", device], "inherit");
  rmSync(directory, { recursive: true });
  return chaos.status ?? 1;
}

/** @param {string[]} command @param {"pipe" | "inherit"} stdout */
function run(command, stdout) {
  const ended = spawnSync(process.execPath, [CLI, ...command], {
    encoding: "utf8",
    stdio: ["ignore", stdout, "inherit"],
    maxBuffer: 1 << 28,
  });
  if (ended.stdout === "") throw new Error(`erofs-nbd ${command.join(" ")} ended with ${ended.status}`);
  return ended;
}

/** Bytes that no two blocks share. @param {number} length */
function randomBytes(length) {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}
