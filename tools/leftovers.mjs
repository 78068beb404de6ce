// @ts-check
/**
 * Finds what a launched run has started and what it has left, and ends it.
 *
 * keeper.mjs and tests call it. A process belongs to a run when its environment or an ancestor says so: environments
 * are inherited by daemons too, so that no process escapes by leaving its parent, its group or its session.
 */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

/** Names a run in the environment of everything that it starts: the run's own directory. */
export const LAUNCH_VARIABLE = "EROFS_NBD_LAUNCH";

const POLL_MS = 20;
/** A killed process goes at once, but for one in uninterruptible sleep, and a busy machine. */
const PATIENCE_MS = 30_000;

/** @typedef {{ pid: number, parent: number, group: number, name: string, isMarked: boolean }} Process */

/**
 * The living processes of a run: those marked with its directory or with one inside it (a run within a run), and all
 * their descendants.
 * @param {string} directory the run's
 * @returns {Process[]}
 */
export function processesOf(directory) {
  const all = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => readProcess(name, directory));
  const found = new Set(all.filter((each) => each.isMarked));
  const pids = new Set([...found].map((each) => each.pid));
  for (let before = -1; before !== found.size; ) {
    before = found.size;
    for (const each of all) {
      if (!pids.has(each.parent)) continue;
      found.add(each);
      pids.add(each.pid);
    }
  }
  return [...found];
}

/**
 * Kills every process of a run, and those that appear meanwhile.
 * @param {string} directory
 * @returns {Promise<Process[]>} those that are still there: the kernel does not let them go
 */
export async function endProcesses(directory) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const left = processesOf(directory);
    if (left.length === 0 || Date.now() > end) return left;
    const pids = new Set(left.map((each) => each.pid));
    // A guest is a group: some of its processes have no environment of their own that could be read.
    const groups = new Set(left.map((each) => each.group).filter((group) => pids.has(group)));
    for (const target of [...[...groups].map((group) => -group), ...pids]) kill(target);
    await delay(POLL_MS);
  }
}

/**
 * Unmounts what is mounted below a directory and removes the directory with all it has.
 * @param {string} directory
 * @returns {string | undefined} why something is left
 */
export function removeDirectory(directory) {
  for (const point of mountsBelow(directory).reverse())
    spawnSync("umount", ["-l", point], { stdio: "ignore" });
  const [mount] = mountsBelow(directory);
  if (mount !== undefined) return `${mount} is still mounted`;
  try {
    rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
    return undefined;
  } catch (error) {
    return /** @type {Error} */ (error).message;
  }
}

/** @param {string} directory */
export function mountsBelow(directory) {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => (line.split(" ")[1] ?? "").replaceAll("\\040", " "))
    .filter((point) => `${point}/`.startsWith(`${directory}/`));
}

/**
 * @param {string} name a number
 * @param {string} directory
 * @returns {Process[]} none when it is gone or only waits for its parent
 */
function readProcess(name, directory) {
  const stat = read(name, "stat");
  // The name in parentheses may itself have spaces and parentheses.
  const [state, parent, group] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (state === undefined || state === "" || state === "Z" || state === "X") return [];
  const run = read(name, "environ")
    .split("\0")
    .find((pair) => pair.startsWith(`${LAUNCH_VARIABLE}=`));
  return [
    {
      pid: Number(name),
      parent: Number(parent),
      group: Number(group),
      name: stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")")),
      isMarked: run !== undefined && `${run}/`.startsWith(`${LAUNCH_VARIABLE}=${directory}/`),
    },
  ];
}

/**
 * @param {string} pid
 * @param {string} file
 */
function read(pid, file) {
  try {
    return readFileSync(join("/proc", pid, file), "utf8");
  } catch {
    return ""; // gone, or not readable for this user
  }
}

/** @param {number} target a process, or a group when negative */
function kill(target) {
  try {
    process.kill(target, "SIGKILL");
  } catch (error) {
    // ESRCH: gone meanwhile. EPERM: it runs as another user; it is named in the end.
    const { code } = /** @type {NodeJS.ErrnoException} */ (error);
    if (code !== "ESRCH" && code !== "EPERM") throw error;
  }
}
