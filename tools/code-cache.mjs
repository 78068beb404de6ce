// @ts-check
/**
 * node tools/code-cache.mjs BUNDLE CACHE [WORD…]: runs a bundle with these words and leaves what V8 has compiled of it
 * until its end.
 *
 * The text is wrapped as src/cli/code-cache.ts does, which uses the cache; V8 compares its length.
 */
import { chmodSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { constants, Script } from "node:vm";

const [, , path = "", cache = "", ...words] = process.argv;
const text = `(function (exports, require, module, __filename, __dirname) { ${readFileSync(path, "utf8")}\n});`;
const script = new Script(text, {
  filename: path,
  importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
});
process.once("exit", () => {
  const unfinished = `${cache}.new`;
  writeFileSync(unfinished, script.createCachedData());
  chmodSync(unfinished, 0o644);
  renameSync(unfinished, cache);
});
process.argv = [process.execPath, path, ...words];
const bundle = { exports: {} };
script.runInThisContext()(bundle.exports, createRequire(path), bundle, path, dirname(path));
