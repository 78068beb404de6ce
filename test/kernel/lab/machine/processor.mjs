// @ts-check
/**
 * A processor of this machine for each guest of User-Mode Linux.
 *
 * Such a kernel and its processes take turns: each system call and each page fault of the guest is a switch from one
 * process of the host to another, and never do two of them run at once. Spread over several processors each switch
 * wakes an idle one, which on a virtual machine takes most of the time.
 */
import { accessSync, constants, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";

const TASKSET_DIRECTORIES = ["/usr/bin", "/bin"];
/** The most guests on one processor; what comes then is not bound to any. */
const MAX_GUESTS_EACH = 16;

/**
 * A processor that is claimed for a guest, until it is released or the process that claimed it ends.
 * @typedef {{ cpu: number, release: () => void }} Claim
 */

/**
 * Claims the processor with the fewest guests of all processes of this machine. A claim is an abstract unix socket,
 * so two processes cannot hold the same one and the kernel ends it with its holder.
 * @param {readonly number[]} [cpus] default: those that this process may use
 * @returns {Promise<Claim | undefined>} nothing where there is only one, or where all are taken
 */
export async function claimProcessor(cpus = allowedProcessors()) {
  if (cpus.length < 2) return undefined;
  for (let guest = 0; guest < MAX_GUESTS_EACH; guest++) {
    for (const cpu of cpus) {
      const server = await bound(`\0erofs-nbd-lab-processor-${cpu}-${guest}`);
      if (server !== undefined) return { cpu, release: () => server.close() };
    }
  }
  return undefined;
}

/**
 * The command that runs another one on one processor; the process stays the same (taskset calls execve).
 * @param {{ file: string, args: readonly string[] }} command
 * @param {number} cpu
 * @returns {{ file: string, args: readonly string[] }} the same command where there is no taskset
 */
export function onProcessor({ file, args }, cpu) {
  const taskset = TASKSET_DIRECTORIES.map((directory) => join(directory, "taskset")).find(isExecutable);
  if (taskset === undefined) return { file, args };
  return { file: taskset, args: ["--cpu-list", String(cpu), file, ...args] };
}

/** The last ones first: the first of a machine often has its interrupts. */
function allowedProcessors() {
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "";
  return processorsIn(list).reverse();
}

/**
 * The numbers of a list as the kernel writes it: `0-3,8`.
 * @param {string} list
 */
export function processorsIn(list) {
  return list
    .split(",")
    .filter((range) => /^\d+(-\d+)?$/.test(range))
    .flatMap((range) => {
      const [first = 0, last = first] = range.split("-").map(Number);
      return Array.from({ length: last - first + 1 }, (_, index) => first + index);
    });
}

/**
 * @param {string} path
 * @returns {Promise<import("node:net").Server | undefined>} nothing when that name is taken
 */
function bound(path) {
  return new Promise((done, failed) => {
    const server = createServer((socket) => socket.destroy());
    server.unref();
    server.once("error", (error) => {
      if (/** @type {NodeJS.ErrnoException} */ (error).code === "EADDRINUSE") done(undefined);
      else failed(error);
    });
    server.listen(path, () => done(server));
  });
}

/** @param {string} path */
function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
