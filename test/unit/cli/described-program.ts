/**
 * The whole command line as data, for tests that compare something with it.
 */
import type { ProgramShape } from "../../../src/cli/command-shapes.ts";
import { CliContext } from "../../../src/cli/context.ts";
import { createProgram } from "../../../src/cli/program.ts";

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** Every command with its options, read from the definitions. */
export async function describedProgram(): Promise<ProgramShape> {
  const before = SIGNALS.map((signal) => process.listeners(signal));
  const context = new CliContext();
  // A context ends its process at a signal; this one is the test runner's.
  SIGNALS.forEach((signal, at) => {
    for (const listener of process.listeners(signal)) {
      if (!before[at]?.includes(listener)) process.off(signal, listener);
    }
  });
  createProgram(context);
  const described = await context.describe?.();
  if (described === undefined) throw new Error("The program describes nothing");
  return described;
}
