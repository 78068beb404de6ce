/**
 * `doctor`: prints a line per check of this machine, with a hint below; exit code 2 if a check fails.
 *
 * The checks are in doctor/checks.ts.
 */
import type { Command } from "commander";
import { EXIT } from "../../errors.ts";
import { printable } from "../../text/printable.ts";
import { runDirOf } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { type Check, runChecks } from "../doctor/checks.ts";
import { formatJson } from "../output.ts";

const HELP = `
Example:
  erofs-nbd doctor

Changes nothing and loads no modules. Exit code 0 if no check fails, else 2.`;

export function define(command: Command, context: CliContext): void {
  command
    .option("--json", "print JSON")
    .addHelpText("after", HELP)
    .action((options: { readonly json?: true }) => run(context, options.json === true));
}

async function run(context: CliContext, json: boolean): Promise<void> {
  const checks = await runChecks(runDirOf(context));
  const ok = checks.every((check) => check.state !== "fail");
  await context.print(json ? formatJson({ ok, checks }) : formatChecks(checks));
  if (!ok) context.exitCode = EXIT.system;
}

function formatChecks(checks: readonly Check[]): string {
  const width = Math.max(...checks.map((check) => check.name.length));
  return checks
    .map(({ name, state, detail, hint }) => {
      const line = `${state.padEnd(4)}  ${name.padEnd(width)}  ${printable(detail)}`;
      return hint === null ? line : `${line}\n${" ".repeat(width + 8)}→ ${printable(hint)}`;
    })
    .join("\n");
}
