// @ts-check
/**
 * Where a start goes, on this machine and on a real kernel, run by hand:
 *
 *   npm run bench:start -- [--kernel 6.1|6.12|6.12-smp|7.2] [--rounds N] [--cli PATH/TO/main.js]
 *
 * Prints what commands take beside `node -e 0`, in turn, so that whatever else the machine does hits all of them; then,
 * in the kernel, the phases of a cold attach: which process was started when, and what the manager's log says. Medians;
 * ratios are to `node -e 0` of the same run. `--cli` measures another build. Asserts nothing. Times are milliseconds.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { boot } from "../kernel/lab/boot.mjs";

const { values } = parseArgs({
  options: {
    kernel: { type: "string", default: "6.12" },
    rounds: { type: "string", default: "5" },
    cli: { type: "string", default: fileURLToPath(new URL("../../dist/src/cli/main.cjs", import.meta.url)) },
    guest: { type: "boolean", default: false },
  },
});
const CLI = resolve(values.cli);
const ROUNDS = Number(values.rounds);
const LIMIT_MS = 900_000;
/** The kernel counts a process's start in these (proc_pid_stat(5)). */
const TICK_MS = 10;
/** Above the longest pause of a manager that has lost its last device. */
const END_POLL_MS = 20;

/** @typedef {Map<string, number[]>} Table */

/** @param {Table} table @param {string} name @param {number} ms */
function note(table, name, ms) {
  table.set(name, [...(table.get(name) ?? []), ms]);
}

/** @param {readonly number[]} list */
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)] ?? Number.NaN;

/**
 * Runs a command to its end.
 * @param {readonly string[]} words
 * @returns {{ startedAt: number, ms: number, stdout: string }}
 */
function run(...words) {
  const startedAt = Date.now();
  const before = performance.now();
  const ended = spawnSync(process.execPath, words, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  const ms = performance.now() - before;
  if (ended.status !== 0)
    throw new Error(`node ${words.join(" ")} ended with ${ended.status}: ${ended.stderr}`);
  return { startedAt, ms, stdout: ended.stdout.trim() };
}

/** @param {string} title @param {Table} table */
function print(title, table) {
  const unit = median(table.get("node -e 0") ?? []);
  process.stdout.write(`\n${title}, Node ${process.version}, ${ROUNDS} rounds\n`);
  for (const [name, list] of table) {
    const ms = median(list);
    const ratio = Number.isNaN(unit) ? "" : `${(ms / unit).toFixed(2).padStart(6)} x`;
    process.stdout.write(`  ${name.padEnd(44)}${ms.toFixed(0).padStart(6)} ms${ratio}\n`);
  }
}

/** What needs no kernel. @param {Table} table */
function measureShort(table) {
  note(table, "node -e 0", run("-e", "0").ms);
  for (const words of [["--version"], ["--help"], ["status"]])
    note(table, words.join(" "), run(CLI, ...words).ms);
}

async function onThisMachine() {
  process.env["EROFS_NBD_RUN_DIR"] = "/nowhere/erofs-nbd";
  const table = new Map();
  for (let round = 0; round < ROUNDS; round += 1) measureShort(table);
  print("this machine", table);
}

async function bootAndMeasure() {
  const { exitCode } = await boot({
    kernel: /** @type {import("../kernel/lab/types.ts").KernelSeries} */ (values.kernel),
    command: [
      process.execPath,
      fileURLToPath(import.meta.url),
      "--guest",
      ...process.argv.slice(2),
      "--cli",
      CLI,
    ],
    env: { EROFS_NBD_LOG: "debug" },
    timeoutMs: LIMIT_MS,
    onOutput: (stream, text) => process[stream].write(text),
  });
  return exitCode;
}

/** When a process was started, on the clock of Date. @param {number} pid */
function bornAt(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const ticks = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]);
  const upMs = Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 1000;
  return Date.now() - upMs + ticks * TICK_MS;
}

const LOG = "/run/erofs-nbd/manager.log";

/** What the manager's log says since then. @param {number} startedAt */
function logLines(startedAt) {
  return readFileSync(LOG, "utf8")
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => /** @type {{ time: string, msg: string, pid: number }} */ (JSON.parse(line)))
    .map(({ time, msg, pid }) => ({ at: Date.parse(time), msg, pid }))
    .filter(({ at }) => at >= startedAt);
}

/** @param {Table} phases @param {number} startedAt @param {number} endedAt @param {number} managerPid */
function notePhases(phases, startedAt, endedAt, managerPid) {
  const lines = logLines(startedAt);
  /** @param {RegExp} pattern */
  const when = (pattern) => lines.find(({ msg }) => pattern.test(msg))?.at ?? Number.NaN;
  const marks = /** @type {const} */ ([
    ["command until the manager's process", bornAt(managerPid)],
    ["manager until its first line", lines[0]?.at ?? Number.NaN],
    ["until it is ready", when(/^The manager is ready/)],
    ["until the attach begins", when(/^Attaching/)],
    ["until the kernel is connected", when(/^nbd\d+ is serving/)],
    ["probe and record", when(/^Attached/)],
    ["the way out", endedAt],
  ]);
  let last = startedAt;
  for (const [name, at] of marks) {
    note(phases, name, at - last);
    last = at;
  }
  note(phases, "together", endedAt - startedAt);
}

/** Waits until no process of erofs-nbd is left. */
async function untilNothingRuns() {
  const isOurs = (/** @type {string} */ pid) => {
    try {
      return /^erofs-nbd |\0manager\0/.test(readFileSync(`/proc/${pid}/cmdline`, "utf8"));
    } catch {
      return false;
    }
  };
  while (
    readdirSync("/proc").some((name) => /^\d+$/.test(name) && Number(name) !== process.pid && isOurs(name))
  )
    await new Promise((wake) => setTimeout(wake, END_POLL_MS));
}

async function inTheGuest() {
  const directory = mkdtempSync(join(tmpdir(), "start-"));
  const image = join(directory, "image");
  writeFileSync(image, Buffer.alloc(1 << 20));
  const table = new Map();
  const phases = new Map();
  for (let round = 0; round <= ROUNDS; round += 1) {
    // The first brings files into memory, and is not counted.
    const [to, into] = round === 0 ? [new Map(), new Map()] : [table, phases];
    measureShort(to);
    const cold = run(CLI, "attach", "--json", image);
    note(to, "cold attach", cold.ms);
    const { device, managerPid } = JSON.parse(cold.stdout);
    notePhases(into, cold.startedAt, cold.startedAt + cold.ms, managerPid);
    note(to, "warm attach", run(CLI, "attach", image).ms);
    note(to, "status of two devices", run(CLI, "status").ms);
    note(to, "detach", run(CLI, "detach", device).ms);
    run(CLI, "detach", "--all");
    await untilNothingRuns();
  }
  rmSync(directory, { recursive: true });
  print(`kernel ${process.env["EROFS_NBD_LAB_KERNEL"]}`, table);
  print("a cold attach there", phases);
  return 0;
}

if (values.guest) process.exitCode = await inTheGuest();
else {
  await onThisMachine();
  process.exitCode = await bootAndMeasure();
}
