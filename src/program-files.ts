/**
 * Paths of this installation's own programs, for those that start or load them.
 *
 * The compiler's files keep the folders of src/. A bundle is one file for many, but each bundle is in a folder right
 * below the root as well (tools/programs.mjs), and the build says so.
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Set by the build in a bundle: the folder above the bundle's own. */
declare const BUNDLE_ROOT: string | undefined;

const ROOT: string = typeof BUNDLE_ROOT === "string" ? BUNDLE_ROOT : dirname(fileURLToPath(import.meta.url));

/** The absolute path of a compiled file or folder, given as below `src/`: `worker/main.cjs`. */
export function programFile(path: string): string {
  return join(ROOT, path);
}
