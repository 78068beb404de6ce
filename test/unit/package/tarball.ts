/**
 * Packs this package as `npm pack` does, without its scripts: they would build into dist/, which other tests run from.
 */
import { execFileSync } from "node:child_process";
import { join } from "node:path";

export interface Tarball {
  /** Of the tarball; nothing is there after a dry run. */
  readonly path: string;
  /** Paths of the files in it, without the leading `package/`. */
  readonly files: readonly string[];
}

/** @param directory where the tarball goes; without one nothing is written */
export function packTarball(directory?: string): Tarball {
  const target = directory === undefined ? ["--dry-run"] : ["--pack-destination", directory];
  const json = execFileSync("npm", ["pack", "--json", "--ignore-scripts", ...target], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [{ filename, files }] = JSON.parse(json) as [
    { filename: string; files: readonly { path: string }[] },
  ];
  return { path: join(directory ?? ".", filename), files: files.map(({ path }) => path) };
}
