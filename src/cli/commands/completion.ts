/**
 * `completion`: prints a completion script, generated from the definitions of all commands.
 *
 * The script is static: pressing TAB does not run erofs-nbd.
 */
import { Argument, type Command } from "commander";
import type { ProgramShape } from "../command-shapes.ts";
import { bashScript } from "../completion/bash.ts";
import { fishScript } from "../completion/fish.ts";
import { zshScript } from "../completion/zsh.ts";
import type { CliContext } from "../context.ts";

const SCRIPTS: Readonly<Record<string, (program: ProgramShape) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};

const HELP = `
Examples:
  source <(erofs-nbd completion bash)
  erofs-nbd completion bash | sudo tee /usr/share/bash-completion/completions/erofs-nbd > /dev/null
  erofs-nbd completion zsh | sudo tee /usr/local/share/zsh/site-functions/_erofs-nbd > /dev/null
  erofs-nbd completion fish > ~/.config/fish/completions/erofs-nbd.fish

The script is static. It completes commands, options, devices, mount points and files. Generate it again after an
update.`;

export function define(command: Command, context: CliContext): void {
  command
    .addArgument(new Argument("<SHELL>", "the shell").choices(Object.keys(SCRIPTS)))
    .addHelpText("after", HELP)
    .action((shell: string) => run(context, shell));
}

async function run(context: CliContext, shell: string): Promise<void> {
  const program = await context.describe?.();
  const script = SCRIPTS[shell];
  if (program === undefined || script === undefined) throw new Error(`no script for ${shell}`);
  await context.print(script(program).trimEnd());
}
