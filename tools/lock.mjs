// @ts-check
/**
 * A lock file that names its owner, for work that two runs must not do at once. packages.mjs and the lab's cache call
 * it. A lock whose owner is gone is broken by the next one that wants it.
 */
import { closeSync, openSync, readFileSync, rmSync, statSync, writeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

const POLL_MS = 200;
/** A lock without a process number is one being written, or its writer died just then. */
const UNWRITTEN_MS = 5_000;

/**
 * Runs `work` while holding the lock; waits for another owner as long as `isDone` is false.
 * @param {string} path the lock file; its directory exists
 * @param {() => boolean} isDone when true, the work is done already and is not run
 * @param {() => Promise<void>} work
 * @param {() => void} [onWait] called once, when another owner has the lock
 */
export async function withLock(path, isDone, work, onWait) {
  let told = false;
  while (!tryLock(path)) {
    if (!told) onWait?.();
    told = true;
    await delay(POLL_MS);
    if (isDone()) return;
  }
  try {
    if (!isDone()) await work();
  } finally {
    rmSync(path, { force: true });
  }
}

/**
 * Takes the lock file, or breaks it when the process named in it is gone.
 * @param {string} path
 */
function tryLock(path) {
  try {
    const fd = openSync(path, "wx", 0o644);
    writeSync(fd, `${process.pid}\n`);
    closeSync(fd);
    return true;
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EEXIST") throw error;
  }
  if (!ownerLives(path)) rmSync(path, { force: true });
  return false;
}

/** @param {string} path */
function ownerLives(path) {
  let text;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return true; // ENOENT: just released, the next try will tell
  }
  const pid = Number.parseInt(text, 10);
  if (!Number.isInteger(pid)) {
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    return age < UNWRITTEN_MS;
  }
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === "EPERM";
  }
}
