// @ts-check
/**
 * The lab's cache directory: where it is, and how an entry comes to be there exactly once.
 *
 * kernels.mjs calls it. An entry is a directory that is prepared under another name and renamed into place, so a
 * reader sees all of it or nothing; the lock only spares a second run the same download. Nothing here ever removes
 * an entry that may be in use.
 */
import { mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { removeIfInterrupted } from "../../../../tools/litter.mjs";
import { withLock } from "../../../../tools/lock.mjs";

/** Changes whenever what an entry contains changes, so that an old cache is never read as a new one. */
const LAYOUT = "v1";

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
  await withLock(
    `${entry}.lock`,
    () => isDirectory(entry),
    async () => {
      const draft = await mkdtemp(`${entry}.draft-`);
      const done = removeIfInterrupted(draft);
      try {
        await prepare(draft);
        renameInto(draft, entry);
      } finally {
        rmSync(draft, { recursive: true, force: true });
        done();
      }
    },
  );
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
