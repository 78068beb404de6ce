// @ts-check
/**
 * Boots a real kernel as a process of this machine, runs one command in it and hands back what it left.
 *
 * Called by the kernel tests, the demo and `npm run lab`. The guest sees the host's files through a read-only hostfs
 * under an overlay, so its changes to them are gone with it; only the shared output directory is written through.
 * No process of a guest outlives boot(): a process group of its own, always killed at the end.
 */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { LabError } from "./errors.mjs";
import { KERNELS, prepareKernel } from "./image/kernels.mjs";
import { startKernel } from "./machine/kernel-process.mjs";
import { claimProcessor } from "./machine/processor.mjs";
import { watchForStuck } from "./machine/stuck-guest.mjs";
import { followOutput } from "./output.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const DEFAULT_TIMEOUT_MS = 120_000;
const DEFAULT_MEMORY_MIB = 2048;
const TAIL_LINES = 25;
/** How often a kernel is started that does not come to its command. */
const MAX_STARTS = 3;

/** @typedef {import("./types.ts").BootOptions} BootOptions */
/** @typedef {import("./types.ts").BootResult} BootResult */
/** @typedef {import("./image/kernels.mjs").PreparedKernel} PreparedKernel */

/** The project's directory: the same path inside and outside. */
export const PROJECT_DIR = resolve(HERE, "../../..");

/** Every kernel the lab has. */
export const KERNEL_SERIES = /** @type {import("./types.ts").KernelSeries[]} */ (Object.keys(KERNELS));

/**
 * Boots, runs, powers off.
 * @param {BootOptions} options
 * @returns {Promise<BootResult>} also when the command failed: see `exitCode`
 * @throws {LabError} ERR_LAB_BOOT when the guest ended without reporting or was out of time, ERR_LAB_EMULATOR when the
 *   emulator stopped behind it; the message has the tails of its output and kernel log
 */
export async function boot(options) {
  options.onProgress?.(`preparing kernel ${options.kernel}`);
  const kernel = await prepareKernel(options.kernel);
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const scratch = mkdtempSync(join(tmpdir(), "erofs-nbd-lab-"));
  const share = resolve(options.outputDir ?? join(scratch, "share"));
  try {
    const endsAtMs = Date.now() + timeoutMs;
    let startedAtMs;
    let end;
    let starts = 0;
    do {
      starts += 1;
      writeJob(share, kernel, options, timeoutMs);
      startedAtMs = Date.now();
      end = await runKernel(kernel, options, { share, scratch, timeoutMs: endsAtMs - startedAtMs });
      if (end.stuck !== undefined) process.stderr.write(`lab: kernel ${kernel.name} ${end.how}\n`);
      // Nothing has run in it, so nothing is lost by another start.
    } while (end.stuck === "no-start" && starts < MAX_STARTS && Date.now() < endsAtMs);
    const totalMs = Date.now() - startedAtMs;
    const text = (/** @type {string} */ name) => readIfThere(join(share, name));
    const dmesg = text("dmesg") || text("console.log");
    const status = text("status").trim();
    if (status === "")
      throw guestDied(kernel, end, { dmesg, stdout: text("stdout"), stderr: text("stderr") });
    return {
      kernel: options.kernel,
      version: kernel.version,
      exitCode: Number.parseInt(status, 10),
      stdout: text("stdout"),
      stderr: text("stderr"),
      dmesg,
      bootMs: Math.round(statSync(join(share, "started")).mtimeMs - startedAtMs),
      totalMs,
      outputDir: share,
    };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * Fills the shared directory with what the guest's scripts read.
 * @param {string} share
 * @param {PreparedKernel} kernel
 * @param {BootOptions} options
 * @param {number} timeoutMs
 */
function writeJob(share, kernel, options, timeoutMs) {
  if (/[\s,"'\\]/.test(share)) {
    throw new LabError(
      "ERR_LAB_ARGUMENT",
      `cannot use ${share} as output directory: blanks, commas or quotes in it`,
    );
  }
  if (options.command.length === 0) throw new LabError("ERR_LAB_ARGUMENT", "cannot boot: no command given");
  mkdirSync(share, { recursive: true });
  for (const old of ["status", "started", "dmesg", "stdout", "stderr", "results.jsonl"])
    rmSync(join(share, old), { force: true });
  for (const name of ["stdout", "stderr"]) writeFileSync(join(share, name), "");
  const settings = {
    lab_share: share,
    lab_project: PROJECT_DIR,
    lab_version: kernel.version,
    lab_modules: kernel.modulesPath,
    lab_load: (options.modules ?? ["nbd", "erofs"]).join(" "),
    lab_init: options.asInit === true ? "1" : "",
    lab_last_words_seconds: String(Math.max(1, Math.floor((timeoutMs / 1000) * 0.8) - 3)),
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${quote(value)}`);
  writeFileSync(join(share, "settings.sh"), `${lines.join("\n")}\n`);
  const environment = {
    PATH: `${dirname(process.execPath)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
    HOME: "/root",
    USER: "root",
    LANG: "C.UTF-8",
    TERM: "dumb",
    EROFS_NBD_LAB_KERNEL: options.kernel,
    EROFS_NBD_LAB_SHARE: share,
    ...options.env,
  };
  const pairs = Object.entries(environment).map(([name, value]) => quote(`${name}=${value}`));
  const words = options.command.map(quote);
  writeFileSync(
    join(share, "command.sh"),
    `cd ${quote(options.cwd ?? PROJECT_DIR)} || exit 127\nexec env -i ${[...pairs, ...words].join(" ")}\n`,
  );
  copyFileSync(join(HERE, "guest/guest-main.sh"), join(share, "guest-main.sh"));
}

/**
 * How a kernel's process ended, for people, and in which way it was stuck before.
 * @typedef {{ how: string, stuck: "no-start" | "lost-timer" | undefined }} KernelEnd
 */

/**
 * Runs the kernel to its end or to the time limit, and leaves no process of it.
 * @param {PreparedKernel} kernel
 * @param {BootOptions} options
 * @param {{ share: string, scratch: string, timeoutMs: number }} place
 * @returns {Promise<KernelEnd>}
 */
async function runKernel(kernel, options, place) {
  const processor = kernel.processors === 1 ? await claimProcessor() : undefined;
  try {
    return await runOn(processor?.cpu, kernel, options, place);
  } finally {
    processor?.release();
  }
}

/**
 * @param {number | undefined} cpu the one processor to run it on
 * @param {PreparedKernel} kernel
 * @param {BootOptions} options
 * @param {{ share: string, scratch: string, timeoutMs: number }} place
 * @returns {Promise<KernelEnd>}
 */
async function runOn(cpu, kernel, options, place) {
  const guest = startKernel(kernel, { ...place, memoryMiB: options.memoryMiB ?? DEFAULT_MEMORY_MIB, cpu });
  const output = followOutput(place.share, options.onOutput);
  let ending = "";
  /** @type {KernelEnd["stuck"]} */
  let stuck;
  const kill = (/** @type {string} */ why) => {
    ending = why;
    guest.kill();
  };
  const isEmulated = kernel.processors > 1;
  const watch = watchForStuck(
    { share: place.share, isEmulated, startMs: options.startTimeoutMs },
    ({ kind, why }) => {
      stuck = kind;
      kill(why);
    },
  );
  const timer = setTimeout(() => kill(`was still running after ${place.timeoutMs} ms`), place.timeoutMs);
  const onAbort = () => kill("was aborted by its caller");
  options.signal?.addEventListener("abort", onAbort, { once: true });
  if (options.signal?.aborted === true) onAbort();
  try {
    const how = await guest.ended;
    return { how: ending === "" ? how : ending, stuck };
  } finally {
    clearTimeout(timer);
    watch.close();
    options.signal?.removeEventListener("abort", onAbort);
    output.close();
  }
}

/**
 * @param {PreparedKernel} kernel
 * @param {KernelEnd} end
 * @param {{ dmesg: string, stdout: string, stderr: string }} left
 */
function guestDied(kernel, end, left) {
  const parts = Object.entries(left)
    .filter(([, text]) => text.trim() !== "")
    .map(([name, text]) => `--- ${name}, last lines ---\n${tail(text)}`);
  return new LabError(
    end.stuck === "lost-timer" ? "ERR_LAB_EMULATOR" : "ERR_LAB_BOOT",
    `cannot finish the run on kernel ${kernel.name}: the guest ${end.how}\n${parts.join("\n")}`,
  );
}

/** @param {string} text */
function tail(text) {
  return text.trimEnd().split("\n").slice(-TAIL_LINES).join("\n");
}

/** @param {string} path */
function readIfThere(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

/**
 * One shell word.
 * @param {string} value
 */
function quote(value) {
  return `'${value.replaceAll("'", "'\\''")}'`;
}
