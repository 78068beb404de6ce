#!/usr/bin/env node
import { EXIT } from "../errors.ts";
/**
 * Entry of `erofs-nbd`: builds the program, runs one command, turns any error into a line, a hint and an exit code.
 *
 * The manager starts this file, too (`manager --auto`). Nothing imports it. It ends the process itself, so that a
 * forgotten handle shows as a wrong result in a test and not as a command that hangs.
 */
import { CliContext } from "./context.ts";
import { createProgram } from "./program.ts";
import { exitCodeOfError, formatError } from "./report.ts";

async function main(argv: readonly string[]): Promise<number> {
  const context = new CliContext();
  try {
    await createProgram(context).parseAsync(argv, { from: "user" });
    return context.exitCode;
  } catch (error) {
    const text = formatError(error, context.isVerbose, context.commandName);
    if (text !== "") process.stderr.write(text);
    return exitCodeOfError(error);
  }
}

// Whoever read our stderr may be gone; there is nobody left to tell.
process.stderr.on("error", () => {});
process.on("uncaughtException", (error) => {
  process.stderr.write(formatError(error, true));
  process.exit(EXIT.bug);
});
process.exit(await main(process.argv.slice(2)));
