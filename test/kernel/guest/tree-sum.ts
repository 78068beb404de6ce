/** One sum over all files below a directory: names, modes, links and contents. */
import { createHash } from "node:crypto";
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join, relative } from "node:path";

export function treeSum(root: string): string {
  const hash = createHash("sha256");
  const paths = readdirSync(root, { recursive: true, withFileTypes: true })
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  for (const path of paths) {
    const stat = lstatSync(path);
    hash.update(`${relative(root, path)} ${stat.mode}\n`);
    if (stat.isSymbolicLink()) hash.update(readlinkSync(path));
    if (stat.isFile()) hash.update(`${stat.size}\n`).update(readFileSync(path));
  }
  return hash.digest("hex");
}
