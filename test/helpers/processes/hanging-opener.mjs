// @ts-check
/**
 * An opener whose opens hang: the real one, with fs.openSync replaced.
 *
 *   node hanging-opener.mjs
 *
 * An open of PATH waits as long as PATH.hangs exists, as one on a file system that does not answer. While PATH.dies
 * exists, it ends the process instead.
 */
import fs, { appendFileSync, existsSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";

const pause = new Int32Array(new SharedArrayBuffer(4));
const open = fs.openSync;
fs.openSync = (path, ...rest) => {
  if (existsSync(`${path}.dies`)) process.exit(7);
  if (existsSync(`${path}.hangs`)) appendFileSync(`${path}.hangs`, `${process.pid}\n`);
  while (existsSync(`${path}.hangs`)) Atomics.wait(pause, 0, 0, 2);
  return open(path, ...rest);
};
syncBuiltinESMExports();
await import("../../../dist/src/opener/start.js");
