/**
 * The path of a worker's program: loads the bundle of start.ts. Managers start main.cjs directly; this file serves
 * managers of a former version, which go on with the installed program.
 */
import { createRequire } from "node:module";

createRequire(import.meta.url)("./main.cjs");
