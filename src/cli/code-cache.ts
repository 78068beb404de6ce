/**
 * Loads a bundle with V8's code cache, if there is one beside it.
 *
 * Used by main.ts. Compiling the manager takes a third of its start time. A code cache is code: it is used only if it
 * has the owner of the bundle and only that user may write it. The build creates it (tools/bundle.mjs) for the Node.js
 * that runs the build; an installed package has none, and V8 rejects a cache of another V8 version. The file's name
 * contains the checksum of the bundle, because V8 compares only the length of the source.
 */
import { closeSync, constants as fileConstants, fstatSync, openSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { Script, constants as vmConstants } from "node:vm";
import { programFile } from "../program-files.ts";

/** Set by the build: the beginning of each bundle's SHA-256 in hexadecimal, by the name that `loadBundle` is given. */
declare const BUNDLE_SUMS: Readonly<Record<string, string>> | undefined;

const OTHERS_MAY_WRITE = 0o022;

/** Runs a bundle as `require` would; `file` is below src/, as programFile() has it. */
export function loadBundle(file: string): void {
  const path = programFile(file);
  const require = createRequire(path);
  const sum = typeof BUNDLE_SUMS === "object" ? BUNDLE_SUMS[file] : undefined;
  const cachedData = sum === undefined ? undefined : readCodeCache(path, sum);
  if (cachedData === undefined) return require(path);
  const text = `(function (exports, require, module, __filename, __dirname) { ${readFileSync(path, "utf8")}\n});`;
  const script = new Script(text, {
    filename: path,
    cachedData,
    importModuleDynamically: vmConstants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
  const bundle = { exports: {} };
  script.runInThisContext()(bundle.exports, require, bundle, path, dirname(path));
}

/** The code cache for this bundle and this Node.js; undefined if there is none, or none that can be trusted. */
export function readCodeCache(path: string, sum: string): Buffer | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(
      `${path}.${sum}-${process.version}.cache`,
      fileConstants.O_RDONLY | fileConstants.O_NOFOLLOW,
    );
    const { uid, mode } = fstatSync(fd);
    const isTrusted = uid === statSync(path).uid && (mode & OTHERS_MAY_WRITE) === 0;
    return isTrusted ? readFileSync(fd) : undefined;
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
