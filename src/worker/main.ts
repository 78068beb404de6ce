/**
 * Where a worker is found by its path: the bundle of start.ts. Managers start main.cjs itself; this file is for those
 * of a former version, which go on with the installed program.
 */
import { createRequire } from "node:module";

createRequire(import.meta.url)("./main.cjs");
