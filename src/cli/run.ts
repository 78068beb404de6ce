/**
 * Runs one command of the command line, and turns an error into a line, a hint and an exit code.
 *
 * Loaded by main.ts, as a bundle or as this file. It calls process.exit() itself, so that a handle left open cannot
 * keep the command from ending.
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

// The reader of stderr may have closed it: there is nowhere left to report to.
process.stderr.on("error", () => {});
process.on("uncaughtException", (error) => {
  process.stderr.write(formatError(error, true));
  process.exit(EXIT.bug);
});
void main(process.argv.slice(2)).then((code) => process.exit(code));
