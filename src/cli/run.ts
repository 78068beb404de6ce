/**
 * The command line at work: builds the program, runs one command, turns any error into a line, a hint and an exit code.
 *
 * Loaded by main.ts, as one of its bundles or as this file. It ends the process itself, so that a forgotten handle
 * shows as a wrong result in a test and not as a command that hangs.
 */
import { EXIT } from "../errors.ts";
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
void main(process.argv.slice(2)).then((code) => process.exit(code));
