/**
 * `detach`: asks the manager to detach targets; prints a line per detached device and an error per failed target.
 *
 * A target is detached, not attached (3) or refused (2). Without a manager and without records nothing is attached, and
 * no manager is started to find that out.
 */
import type { Command } from "commander";
import { ControlError } from "../../control/client.ts";
import { faultOf } from "../../control/fault.ts";
import type { DetachResult, Target } from "../../control/protocol.ts";
import { readTarget, targetByIdentifier } from "../../control/target.ts";
import { ErofsNbdError, EXIT, type ExitCode, MANAGING, notAttached } from "../../errors.ts";
import { printable } from "../../text/printable.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { findManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { formatJson } from "../output.ts";
import { formatError } from "../report.ts";

interface Options {
  readonly all?: true;
  readonly force?: true;
  readonly json?: true;
}

const IDENTIFIER = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const HELP = `
TARGET is a device (nbd3, /dev/nbd3 or 3), its identifier as --json prints it, the path of an attached image, or a mount
point; ./3 is a path. An image path detaches every device of that image.

Examples:
  sudo erofs-nbd detach nbd0
  sudo erofs-nbd detach image.erofs /mnt
  sudo erofs-nbd detach --all

Exit code 3 if a target was not attached, 2 if the detach was refused, 64 if only some of several were detached. --all
with nothing attached is no error. --json prints an array with target, device, detached and error (null, or code,
message, hint and exitCode) for each; errors go to stderr as well.`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("[TARGET...]", "devices, images or mount points")
    .option("--all", "every device")
    .option("--force", "detach even while in use: mounts and devices on it get I/O errors")
    .option("--json", "print the outcome of each target as an array")
    .addHelpText("after", HELP)
    .action((targets: string[], options: Options) => run(context, targets, options));
}

async function run(context: CliContext, words: readonly string[], options: Options): Promise<void> {
  const all = options.all === true;
  if (all === words.length > 0) {
    const why = all ? "--all and targets are mutually exclusive" : "name a target, or --all";
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot detach: ${why}`);
  }
  const targets = await Promise.all(words.map(readTarget));
  requireRoot(MANAGING);
  const client = await findManager(context);
  if (client === undefined) {
    return report(context, all ? [] : targets.map(absent), words, options.json === true);
  }
  try {
    for (const [at, word] of words.entries()) {
      const named = IDENTIFIER.test(word) ? await targetByIdentifier(client, word) : undefined;
      if (named !== undefined) targets[at] = named;
    }
    const { results } = await client.request("detach", { targets, all, force: options.force === true });
    await report(context, results, words, options.json === true);
  } finally {
    client.close();
  }
}

function absent(target: Target): DetachResult {
  const error = faultOf(notAttached(`detach ${nameOf(target)}`));
  return { target: "path" in target ? { path: target.path } : target, device: null, error };
}

async function report(
  context: CliContext,
  results: readonly DetachResult[],
  words: readonly string[],
  json: boolean,
): Promise<void> {
  if (json) await context.print(formatJson(results.map((one) => ({ ...one, detached: one.error === null }))));
  else if (results.length === 0) context.note("no devices attached");
  for (const { device, error, target } of results) {
    if (error !== null) process.stderr.write(formatError(new ControlError(error), context.isVerbose));
    else if (!json) await context.print(printable(`detached ${device ?? nameOf(target) ?? words.join(" ")}`));
  }
  context.exitCode = exitCodeOfResults(results);
}

function nameOf(target: Target | null): string | undefined {
  if (target === null) return undefined;
  if ("path" in target) return target.path;
  return "identifier" in target ? target.identifier : `nbd${target.index}`;
}

/** 0 if all were detached, 64 if some were; else the code of the failures, a refusal before an absence. */
export function exitCodeOfResults(results: readonly DetachResult[]): ExitCode {
  const failed = results.flatMap(({ error }) => (error === null ? [] : [error.exitCode]));
  const [first] = failed;
  if (first === undefined) return EXIT.done;
  if (failed.length < results.length) return EXIT.someFailed;
  return failed.find((code) => code !== EXIT.absent) ?? first;
}
