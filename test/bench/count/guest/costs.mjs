// @ts-check
/** What a tree of processes has loaded and started, from its calls. */

export const START_COLUMNS = ["JavaScript files", "KiB of them", "addons", "processes", "programs"];
const CODE = /\.(?:[cm]?js|node)$/;
/** By how many processes with JavaScript there are from the root of the tree. */
const KINDS = ["command", "manager", "workers"];

/** @typedef {import("./strace.mjs").Call} Call */

/**
 * What each kind of process of a tree has cost: the command, the manager that it started, the manager's workers, and
 * programs that load no JavaScript.
 * @param {readonly Call[]} calls
 * @param {string} root where files count
 * @param {(path: string) => number} bytesOf
 * @returns {Map<string, number[]>} by START_COLUMNS
 */
export function costs(calls, root, bytesOf) {
  const { processOf, parentOf } = family(calls);
  /** @type {Map<number, Set<string>>} */
  const loaded = new Map();
  /** @type {Map<number, number>} */
  const programs = new Map();
  const members = new Set(calls.map(({ pid }) => processOf(pid)));
  for (const { pid, name, args, result } of calls) {
    const process = processOf(pid);
    if (name === "execve" && result === 0) programs.set(process, (programs.get(process) ?? 0) + 1);
    const path = name.startsWith("open") && result >= 0 ? /"(.*?)"/.exec(args)?.[1] : undefined;
    if (path?.startsWith(root) && CODE.test(path)) setOf(loaded, process).add(path);
  }
  /**
   * How many of its ancestors and itself have loaded JavaScript.
   * @param {number | undefined} process
   * @returns {number}
   */
  const depth = (process) =>
    process === undefined ? 0 : depth(parentOf(process)) + (loaded.has(process) ? 1 : 0);
  /** @type {Map<string, number[][]>} */
  const parts = new Map();
  for (const process of members) {
    const who = loaded.has(process) ? (KINDS[depth(process) - 1] ?? "further") : "other programs";
    const paths = [...(loaded.get(process) ?? [])];
    const scripts = paths.filter((path) => !path.endsWith(".node"));
    const bytes = scripts.reduce((total, path) => total + bytesOf(path), 0);
    const row = [scripts.length, bytes / 1024, paths.length - scripts.length, 1, programs.get(process) ?? 0];
    parts.set(who, [...(parts.get(who) ?? []), row]);
  }
  return new Map([...parts].map(([who, rows]) => [who, sum(rows)]));
}

/** @param {Map<number, Set<string>>} sets @param {number} key */
function setOf(sets, key) {
  const set = sets.get(key) ?? new Set();
  sets.set(key, set);
  return set;
}

/** @param {readonly number[][]} rows by START_COLUMNS */
export function sum(rows) {
  return START_COLUMNS.map((_, column) => rows.reduce((total, row) => total + (row[column] ?? 0), 0));
}

/**
 * Which process a thread is of, and which one started a process.
 * @param {readonly Call[]} calls
 */
function family(calls) {
  /** @type {Map<number, number>} */
  const creatorOfThread = new Map();
  /** @type {Map<number, number>} */
  const creatorOfProcess = new Map();
  for (const { pid, name, args, result } of calls) {
    if (!/^(?:clone3?|v?fork)$/.test(name) || result <= 0) continue;
    (args.includes("CLONE_THREAD") ? creatorOfThread : creatorOfProcess).set(result, pid);
  }
  /** @param {number} thread @returns {number} */
  const processOf = (thread) => {
    const creator = creatorOfThread.get(thread);
    return creator === undefined ? thread : processOf(creator);
  };
  const parentOf = (/** @type {number} */ process) => {
    const creator = creatorOfProcess.get(process);
    return creator === undefined ? undefined : processOf(creator);
  };
  return { processOf, parentOf };
}
