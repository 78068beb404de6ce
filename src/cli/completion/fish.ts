/**
 * Generates the completion script for fish: one `complete` line per command, option and operand.
 *
 * Pure. Used by the completion command. fish itself completes files and does not offer an option twice.
 */
import type { CommandShape, OptionShape, ProgramShape } from "../command-shapes.ts";
import { kindOf, type ValueKind } from "./value-kinds.ts";

/** The whole script, to be sourced or saved as `erofs-nbd.fish` in the completions directory of fish. */
export function fishScript(program: ProgramShape): string {
  const { name, commands } = program;
  const head = `complete -c ${name}`;
  const lines = [
    `${head} -f`,
    ...program.options.map((option) => `${head} ${optionWords(option)}`),
    ...commands.map(
      (command) => `${head} -n __erofs_nbd_needs_command -a ${command.name} -d ${quote(command.summary)}`,
    ),
    ...commands.flatMap((command) => linesOf(head, command)),
  ];
  return `# fish completion for ${name}. Made by: ${name} completion fish
# Source it, or save it as ${name}.fish in ~/.config/fish/completions.

${FUNCTIONS}
${lines.join("\n")}
`;
}

function linesOf(head: string, command: CommandShape): string[] {
  const when = `${head} -n ${quote(`__erofs_nbd_command_is ${command.name}`)}`;
  return [
    ...command.options.map((option) => `${when} ${optionWords(option, command)}`),
    ...command.operands
      .map((operand) => offer(kindOf(operand, command)))
      .filter((words) => words !== "-f")
      .map((words) => `${when} ${words}`),
  ];
}

function optionWords(option: OptionShape, command?: CommandShape): string {
  const names = option.names.map((name) =>
    name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`,
  );
  const value = option.value === undefined ? [] : ["-r", offer(kindOf(option, command))];
  return [...names, ...value, `-d ${quote(option.summary)}`].join(" ");
}

/** -F completes files, -f does not. */
function offer(value: ValueKind): string {
  switch (value.kind) {
    case "nothing":
      return "-f";
    case "file":
      return "-F";
    case "directory":
      return "-f -a '(__fish_complete_directories)'";
    case "device":
      return "-f -a '(__erofs_nbd_devices)'";
    case "target":
      return "-F -a '(__erofs_nbd_devices used)'";
    case "mountpoint":
      return "-f -a '(__erofs_nbd_mountpoints)'";
    case "words":
      return value.isList
        ? `-f -a '(__fish_append , ${value.words.join(" ")})'`
        : `-f -a ${quote(value.words.join(" "))}`;
  }
}

function quote(text: string): string {
  return `'${text.replace(/['\\]/g, "\\$&")}'`;
}

const FUNCTIONS = `function __erofs_nbd_devices
    for path in /sys/block/nbd*
        if test (count $argv) -eq 0; or test -e $path/pid
            set -l name (string replace -r '.*/' '' $path)
            printf '%s\\n' $name /dev/$name
        end
    end
end

function __erofs_nbd_mountpoints
    while read -l source directory rest
        string match -q '/dev/nbd*' $source; and printf '%b\\n' $directory
    end </proc/self/mounts
end

# The first word that is neither an option nor the value of one.
function __erofs_nbd_command
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case --run-dir
                set -e words[1]
            case '-*'
            case '*'
                echo $words[1]
                return 0
        end
        set -e words[1]
    end
    return 1
end

function __erofs_nbd_needs_command
    not __erofs_nbd_command >/dev/null
end

function __erofs_nbd_command_is
    contains -- $argv[1] (__erofs_nbd_command)
end
`;
