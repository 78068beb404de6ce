// @ts-check
/**
 * Directories outside a run's own temporary directory that an interrupted run must not leave: the demo's, a guest's
 * results, a half-filled cache entry. The code that makes one lists it here; keeper.mjs removes what is still listed.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LAUNCH_VARIABLE } from "./leftovers.mjs";

/**
 * Has `path` removed if the run ends before the returned function is called. Without a launched run nothing happens.
 * @param {string} path absolute, of a file or directory
 * @returns {() => void} call it when the path is done with or to be kept
 */
export function removeIfInterrupted(path) {
  const run = process.env[LAUNCH_VARIABLE];
  if (run === undefined || run === "") return () => {};
  mkdirSync(litterOf(run), { recursive: true });
  const entry = mkdtempSync(join(litterOf(run), "at-"));
  writeFileSync(join(entry, "path"), path);
  return () => rmSync(entry, { recursive: true, force: true });
}

/**
 * The paths that are listed.
 * @param {string} run the run's directory
 * @returns {string[]}
 */
export function listedLitter(run) {
  try {
    return readdirSync(litterOf(run)).flatMap((name) => {
      try {
        return [readFileSync(join(litterOf(run), name, "path"), "utf8")].filter((path) => path !== "");
      } catch {
        return []; // being written when the run ended: its path had not been made yet
      }
    });
  } catch {
    return [];
  }
}

/** @param {string} run */
function litterOf(run) {
  return join(run, "litter");
}
