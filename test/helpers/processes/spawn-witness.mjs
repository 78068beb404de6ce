// @ts-check
/**
 * Loaded into a program with NODE_OPTIONS=--import: writes each process that it starts, as it is started, into the file
 * SPAWN_WITNESS, one JSON line each. For processes that live too briefly to be found in /proc for sure.
 */
import childProcess from "node:child_process";
import { appendFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";

const { spawn } = childProcess;
const file = process.env["SPAWN_WITNESS"] ?? "";

childProcess.spawn = /** @type {typeof spawn} */ (
  (/** @type {Parameters<typeof spawn>} */ ...words) => {
    const child = spawn(...words);
    const [program, args, options] = words;
    appendFileSync(file, `${JSON.stringify({ program, args, env: options?.env ?? process.env })}\n`);
    return child;
  }
);
syncBuiltinESMExports();
