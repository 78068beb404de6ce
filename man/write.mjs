// @ts-check
/**
 * Writes the manual pages from the built program: `node man/write.mjs [DIRECTORY]`, by default dist/man.
 *
 * Run when the package is packed, after the build, and by the test that compares the pages with the command line.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { CliContext } from "../dist/src/cli/context.js";
import { NBD_OPTIONS } from "../dist/src/cli/mount/mount-options.js";
import { createProgram } from "../dist/src/cli/program.js";
import { erofsNbdPage } from "./erofs-nbd.mjs";
import { mountHelperPage } from "./mount-erofs-nbd.mjs";

const context = new CliContext();
createProgram(context);
const program = await context.describe?.();
if (program === undefined) throw new Error("The command line does not describe itself");
const directory = process.argv[2] ?? fileURLToPath(new URL("../dist/man", import.meta.url));
mkdirSync(directory, { recursive: true });
writeFileSync(join(directory, "erofs-nbd.8"), erofsNbdPage(program));
writeFileSync(join(directory, "mount.erofs.nbd.8"), mountHelperPage(NBD_OPTIONS, program.version));
// The context listens for signals, which would keep this process.
process.exit(0);
