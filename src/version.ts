/** The version of the installed package, read once from its package.json. */
import { readFileSync } from "node:fs";

interface PackageFile {
  readonly version: string;
}

/** Set by the build where it makes one file of many. */
declare const BUNDLED_VERSION: string | undefined;

/** package.json lies two folders above the built file, one above the source. */
function readVersion(): string {
  for (const candidate of ["../../package.json", "../package.json"]) {
    try {
      return (JSON.parse(readFileSync(new URL(candidate, import.meta.url), "utf8")) as PackageFile).version;
    } catch {
      // Not here: the other place has it.
    }
  }
  return "unknown";
}

export const VERSION: string = typeof BUNDLED_VERSION === "string" ? BUNDLED_VERSION : readVersion();
