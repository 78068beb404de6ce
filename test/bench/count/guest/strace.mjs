// @ts-check
/**
 * System calls of a process that runs, and of a whole tree of processes from its first instruction, told by strace.
 *
 * strace is asked for lines, not for sums: only lines say what a call belongs to.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

const LOOK_AGAIN_MS = 5;
/** As strace-program.mjs found it. */
const { STRACE = "strace", STRACE_LIBRARIES = "" } = process.env;
const LIBRARY_PATH = STRACE_LIBRARIES === "" ? {} : { LD_LIBRARY_PATH: STRACE_LIBRARIES };

/**
 * @typedef {object} Call
 * @property {number} pid the thread that made it
 * @property {string} name
 * @property {string} args as strace prints them
 * @property {number} result -1 and less: failed, or did not return
 * @property {number} atMs when it began
 */

/**
 * The calls that a process's first thread makes while `work` runs.
 * @param {number} pid
 * @param {string} file where strace may write; removed afterwards
 * @param {() => void | Promise<void>} work
 * @returns {Promise<Call[]>}
 */
export async function traceWhile(pid, file, work) {
  // Strings and structures would only be skipped again when reading.
  const quiet = ["-ttt", "-qq", "-s", "0", "-e", "signal=none", "-e", "verbose=none"];
  const strace = spawn(STRACE, [...quiet, "-o", file, "-p", `${pid}`], {
    env: { ...process.env, ...LIBRARY_PATH },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const ended = endOf(strace);
  await Promise.race([untilTraced(pid, true), ended]);
  await work();
  strace.kill("SIGINT");
  await ended;
  const calls = parse(readFileSync(file, "utf8"), pid);
  rmSync(file);
  return calls;
}

/** @typedef {(printed: Promise<unknown>) => Promise<void>} WhileRunning */

/**
 * Runs a command until it and everything that it started have ended.
 * @param {readonly [string, ...string[]]} command
 * @param {{ file: string, trace: string, env?: NodeJS.ProcessEnv, whileRunning?: WhileRunning }} options
 *   `printed` is settled when the tree has written its first bytes to stdout
 * @returns {Promise<{ calls: Call[], status: number | null, stderr: string }>} the command's own exit status
 */
export async function traceTree(command, { file, trace, env = process.env, whileRunning }) {
  const args = ["-f", "-qq", "-s", "4096", "--seccomp-bpf", "-e", "signal=none", "-e", `trace=${trace}`];
  // Its libraries are not for what it starts.
  const strace = spawn(STRACE, [...args, "-E", "LD_LIBRARY_PATH", "-o", file, ...command], {
    env: { ...env, ...LIBRARY_PATH },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const printed = once(strace.stdout, "data");
  let stderr = "";
  strace.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  const ended = once(strace, "exit");
  await Promise.race([whileRunning?.(printed), ended]);
  const [status] = await ended;
  const calls = parse(readFileSync(file, "utf8"), 0);
  rmSync(file);
  return { calls, status, stderr };
}

/** @param {import("node:child_process").ChildProcess} strace */
async function endOf(strace) {
  let stderr = "";
  strace.stderr?.on("data", (chunk) => {
    stderr += chunk;
  });
  const [status, signal] = await once(strace, "exit");
  // Told to end, it lets go of the process and dies of the same signal.
  if (status !== 0 && signal !== "SIGINT")
    throw new Error(`strace ended with ${status ?? signal}: ${stderr.trim()}`);
}

/** @param {number} pid @param {boolean} isTraced */
async function untilTraced(pid, isTraced) {
  while (/^TracerPid:\t0$/m.test(readFileSync(`/proc/${pid}/status`, "utf8")) === isTraced)
    await delay(LOOK_AGAIN_MS);
}

/** A thread's number with -f, a time with -ttt, then a call that is whole, or begins, or goes on. */
const LINE = /^(?:(\d+) +)?(?:(\d+\.\d+) )?(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$/;
const UNFINISHED = " <unfinished ...>";
const RESULT = /\) += (-?\d+|\?|0x[0-9a-f]+)(?: .*)?$/;

/**
 * Calls in the order in which they began.
 * @param {string} text
 * @param {number} onlyPid what lines without a number are of
 * @returns {Call[]}
 */
export function parse(text, onlyPid) {
  /** @type {Call[]} */
  const calls = [];
  /** @type {Map<number, Call>} */
  const unfinished = new Map();
  for (const line of text.split("\n")) {
    const [, number, seconds, name = "", rest = ""] = LINE.exec(line) ?? [];
    const isUnfinished = rest.endsWith(UNFINISHED);
    const result = isUnfinished ? undefined : RESULT.exec(rest)?.[1];
    if (name === "" || (result === undefined && !isUnfinished)) continue;
    const pid = number === undefined ? onlyPid : Number(number);
    const begun = line.includes("resumed>") ? unfinished.get(pid) : undefined;
    const call = begun ?? { pid, name, args: "", result: -1, atMs: Number(seconds ?? 0) * 1000 };
    call.args += isUnfinished ? rest.slice(0, -UNFINISHED.length) : rest.replace(RESULT, "");
    call.result = result === undefined || result === "?" ? -1 : Number(result);
    if (begun === undefined) calls.push(call);
    if (!isUnfinished) unfinished.delete(pid);
    else unfinished.set(pid, call);
  }
  return calls;
}
