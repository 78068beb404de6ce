// @ts-check
/**
 * Outlives a launched run and ends all that it left: processes, mounts, directories.
 *
 * launch.mjs starts it in a session of its own, so that no signal to the run reaches it, and talks to its stdin: first
 * the run's directory, then `done` if the run came to its own end. The end of the input means that the launcher has
 * ended. Only then it acts, and it exits when nothing is left.
 */
import { rmSync } from "node:fs";
import { text } from "node:stream/consumers";
import { endProcesses, processesOf, removeDirectory } from "./leftovers.mjs";
import { listedLitter } from "./litter.mjs";

const [directory = "", word] = (await text(process.stdin)).split("\n");
if (directory !== "") await clean(directory, word === "done");

/**
 * @param {string} run
 * @param {boolean} isDone
 */
async function clean(run, isDone) {
  // What dies first may make others strike their entries, so the list is read before as well. A run that came to its
  // own end may keep evidence of what failed.
  const before = isDone ? [] : listedLitter(run);
  const left = isDone ? processesOf(run) : [];
  if (left.length > 0) say(`ended what the run had left: ${names(left)}`);
  const immortal = await endProcesses(run);
  if (immortal.length > 0) say(`cannot end ${names(immortal)}`);
  for (const path of isDone ? [] : [...before, ...listedLitter(run)])
    rmSync(path, { recursive: true, force: true });
  const problem = removeDirectory(run);
  if (problem !== undefined) say(`cannot remove ${run}: ${problem}`);
}

/** @param {readonly import("./leftovers.mjs").Process[]} processes */
function names(processes) {
  return processes.map(({ name, pid }) => `${name} (${pid})`).join(", ");
}

/** @param {string} line */
function say(line) {
  // The terminal may be gone.
  process.stderr.on("error", () => {}).write(`erofs-nbd: ${line}\n`);
}
