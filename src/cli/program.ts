/**
 * The command table and the options that all commands share.
 *
 * Used by run.ts. A command's file is loaded only when the command runs or prints its help, so that a short command
 * such as `status` does not load code that it does not use.
 */
import { Command } from "commander";
import { VERSION } from "../version.ts";
import { describeProgram } from "./command-shapes.ts";
import type { CliContext, GlobalOptions } from "./context.ts";

/** The exports of a file in commands/. */
interface CommandModule {
  /** Adds arguments, options, help and the action. */
  define(command: Command, context: CliContext): void;
}

interface Entry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<CommandModule>;
}

const COMMANDS: readonly Entry[] = [
  {
    name: "attach",
    summary: "attach an image and print its device node",
    load: () => import("./commands/attach.ts"),
  },
  {
    name: "detach",
    summary: "detach devices, by device, image or mount point",
    load: () => import("./commands/detach.ts"),
  },
  {
    name: "mount",
    summary: "attach an EROFS image and mount it; umount also detaches it",
    load: () => import("./commands/mount.ts"),
  },
  {
    name: "umount",
    summary: "unmount and wait until the device is detached",
    load: () => import("./commands/umount.ts"),
  },
  {
    name: "status",
    summary: "show attached devices and their state",
    load: () => import("./commands/status.ts"),
  },
  {
    name: "serve",
    summary: "serve an image as an ordinary NBD server",
    load: () => import("./commands/serve.ts"),
  },
  {
    name: "manager",
    summary: "run the manager in the foreground, as a service does",
    load: () => import("./commands/manager.ts"),
  },
  {
    name: "upgrade",
    summary: "replace manager and workers by the installed version, under load",
    load: () => import("./commands/upgrade.ts"),
  },
  {
    name: "chaos",
    summary: "inject faults into an attached device and verify every byte read",
    load: () => import("./commands/chaos.ts"),
  },
  {
    name: "install-units",
    summary: "install the service, the mount helper and the module's settings",
    load: () => import("./commands/install-units.ts"),
  },
  {
    name: "doctor",
    summary: "check what this machine needs to attach images",
    load: () => import("./commands/doctor.ts"),
  },
  {
    name: "completion",
    summary: "print a completion script for bash, zsh or fish",
    load: () => import("./commands/completion.ts"),
  },
];

const EXAMPLES = `
Examples:
  sudo erofs-nbd attach image.erofs          prints /dev/nbd0
  sudo erofs-nbd mount image.erofs /mnt      and later: sudo umount /mnt
  sudo erofs-nbd status --watch

Exit codes: 0 done, 1 wrong usage, bad input or missing permission, 2 the system or kernel refused,
3 not attached, 4 internal error, 5 chaos found a fault, 8 interrupted, 32 mount failed,
64 some of several done.`;

/** The whole command line. Throws errors and never ends the process. */
export function createProgram(context: CliContext): Command {
  context.describe = async () => describeProgram(await createWholeProgram(context));
  const program = new Command("erofs-nbd")
    .description("Attach EROFS images to /dev/nbdN and keep them readable, no matter which process dies.")
    .option("--run-dir <DIR>", "where the manager's files live (default: /run/erofs-nbd)")
    .option("-v, --verbose", "print more; for an error its code, causes and stack")
    .version(VERSION, "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand(false)
    .configureHelp({ showGlobalOptions: true })
    // report.ts formats errors.
    .configureOutput({ outputError: () => {} })
    .exitOverride()
    .addHelpText("after", EXAMPLES)
    .hook("preSubcommand", async (parent, command) => {
      context.begin(command.name(), parent.opts<GlobalOptions>());
      const entry = COMMANDS.find((one) => one.name === command.name());
      (await entry?.load())?.define(command, context);
    });
  for (const { name, summary } of COMMANDS) program.command(name).description(summary);
  // Commander's help command would print a command's help before the command is loaded and defined.
  program
    .command("help", { hidden: true })
    .argument("[COMMAND]")
    .action(async (name: string | undefined) => {
      const words = name === undefined ? ["--help"] : [name, "--help"];
      await createProgram(context).parseAsync(words, { from: "user" });
    });
  return program;
}

/** The program with every command loaded and defined, for completion scripts and manual pages. */
async function createWholeProgram(context: CliContext): Promise<Command> {
  const program = createProgram(context);
  for (const command of program.commands) {
    const entry = COMMANDS.find((one) => one.name === command.name());
    (await entry?.load())?.define(command, context);
  }
  return program;
}
