/**
 * `manager`: the daemon in this process, until a signal; what a service unit starts, and what a first attach starts.
 *
 * Its devices outlive it: workers serve on, and the next manager takes over.
 */
import type { Command } from "commander";
import { Option } from "commander";
import { runDaemon } from "../../manager/daemon.ts";
import { runDirOf } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { requireRoot } from "../preconditions.ts";

interface Options {
  readonly auto?: true;
}

const HELP = `
Example:
  sudo erofs-nbd manager --run-dir /run/erofs-nbd

Its log goes to stderr. SIGTERM or Ctrl-C ends it; devices stay attached and are served on without it.`;

export function define(command: Command, context: CliContext): void {
  command
    .addOption(
      new Option("--auto", "end with the last device: for a manager that a command started").hideHelp(),
    )
    .addHelpText("after", HELP)
    .action((options: Options) => run(context, options));
}

async function run(context: CliContext, options: Options): Promise<void> {
  requireRoot("run the manager");
  const stopped = context.interrupts.wait();
  const auto = options.auto === true;
  const daemon = await runDaemon({ runDir: runDirOf(context), auto });
  await Promise.race([daemon.ended, stopped.then(() => daemon.stop())]);
}
