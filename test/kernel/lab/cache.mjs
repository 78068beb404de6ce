// @ts-check
/**
 * The lab's cache directory: where it is, and how an entry comes to be there exactly once.
 *
 * kernels.mjs calls it. An entry is a directory that is prepared under another name and renamed into place, so a
 * reader sees all of it or nothing; the lock only spares a second run the same download. Nothing here ever removes
 * an entry that somebody may be using.
 */
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

/** Changes whenever what an entry contains changes, so that an old cache is never read as a new one. */
const LAYOUT = "v1";
const LOCK_POLL_MS = 200;

/** The cache's root: $EROFS_NBD_LAB_CACHE, else $XDG_CACHE_HOME/erofs-nbd-lab, else ~/.cache/erofs-nbd-lab. */
export function cacheRoot() {
  const own = process.env["EROFS_NBD_LAB_CACHE"];
  if (own !== undefined && own !== "") return join(own, LAYOUT);
  const xdg = process.env["XDG_CACHE_HOME"];
  return join(xdg !== undefined && xdg !== "" ? xdg : join(homedir(), ".cache"), "erofs-nbd-lab", LAYOUT);
}

/**
 * The directory `name` of the cache, made by `prepare` when it isn't there yet.
 * @param {string} name entry name, a relative path
 * @param {(directory: string) => Promise<void>} prepare fills the empty directory it is given
 * @returns {Promise<string>} absolute path of the finished entry
 */
export async function cacheEntry(name, prepare) {
  const entry = join(cacheRoot(), name);
  if (isDirectory(entry)) return entry;
  mkdirSync(dirname(entry), { recursive: true });
  const lock = `${entry}.lock`;
  while (!tryLock(lock)) {
    await delay(LOCK_POLL_MS);
    if (isDirectory(entry)) return entry;
  }
  try {
    if (isDirectory(entry)) return entry;
    const draft = await mkdtemp(`${entry}.draft-`);
    try {
      await prepare(draft);
      renameInto(draft, entry);
    } finally {
      rmSync(draft, { recursive: true, force: true });
    }
  } finally {
    rmSync(lock, { force: true });
  }
  return entry;
}

/**
 * Renames `draft` to `entry`; that another run was faster is no error.
 * @param {string} draft
 * @param {string} entry
 */
function renameInto(draft, entry) {
  try {
    renameSync(draft, entry);
  } catch (error) {
    if (!isDirectory(entry)) throw error;
  }
}

/** @param {string} path */
function isDirectory(path) {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/**
 * Takes the lock file, breaking it when the process named in it is gone. Two breakers at once are harmless: the
 * rename decides who made the entry.
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
    // Written a moment ago and still empty, or its writer died in between: judge by its age.
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    return age < 5_000;
  }
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === "EPERM";
  }
}
