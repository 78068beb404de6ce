// @ts-check
/**
 * How far the sources are from the aims of the house: files that tell one story, folders that can be looked over, lines
 * that can be read.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const MAX_LINES = 300;
const MAX_FILES = 12;
const MAX_COLUMNS = 120;
const SOURCE = /\.(?:[cm]?[jt]s|css|sh)$/;

export const HOUSE_COLUMNS = [
  `files over ${MAX_LINES} lines`,
  `folders over ${MAX_FILES} files`,
  "files beyond that",
  `lines over ${MAX_COLUMNS} columns`,
];
/** What is held to its figures, and what is only counted. */
const GUARDED = ["netlink", "src"];
const COUNTED = ["examples", "man", "test"];

/** @returns {Map<string, number[]>} by folder, in the order of HOUSE_COLUMNS */
export function countHouse() {
  return new Map(GUARDED.map((folder) => [folder, aims(folder)]));
}

/** @returns {Map<string, number[]>} the same for folders that may exceed what they have */
export function countHouseBeyond() {
  return new Map(COUNTED.map((folder) => [folder, aims(folder)]));
}

/** @param {string} folder */
function aims(folder) {
  // With files that are not committed yet, so that the figures are those of the commit to come.
  const listed = execFileSync(
    "git",
    ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", folder],
    { cwd: ROOT, encoding: "utf8" },
  );
  const paths = listed.split("\0").filter((path) => path !== "" && existsSync(join(ROOT, path)));
  if (paths.length === 0) throw new Error(`git lists no file of ${folder}`);
  return measure(
    new Map(paths.map((path) => [path, SOURCE.test(path) ? readFileSync(join(ROOT, path), "utf8") : ""])),
  );
}

/**
 * @param {ReadonlyMap<string, string>} texts by path; what is no source text is empty
 * @returns {number[]} in the order of HOUSE_COLUMNS
 */
export function measure(texts) {
  const lines = [...texts.values()].map((text) => text.split("\n"));
  /** @type {Map<string, number>} */
  const folders = new Map();
  for (const path of texts.keys()) folders.set(dirname(path), (folders.get(dirname(path)) ?? 0) + 1);
  const crowded = [...folders.values()].filter((count) => count > MAX_FILES);
  return [
    // The text after the last line's end is none.
    lines.filter((file) => file.length - 1 > MAX_LINES).length,
    crowded.length,
    crowded.reduce((beyond, count) => beyond + count - MAX_FILES, 0),
    lines.flat().filter((line) => [...line].length > MAX_COLUMNS).length,
  ];
}
