/**
 * Generates the completion script for zsh: one function for `compdef` with `_arguments` specifications.
 *
 * Pure. Used by the completion command. zsh itself completes files, accepts options in any order and shows the
 * summaries.
 */
import type { CommandShape, OptionShape, ProgramShape } from "../command-shapes.ts";
import { kindOf, type ValueKind } from "./value-kinds.ts";

/** The whole script, to be sourced or saved as `_erofs-nbd` in a directory of $fpath. */
export function zshScript(program: ProgramShape): string {
  const shared = program.options.filter(({ names }) => !names.includes("--version"));
  const lines = program.commands.map(
    (command) => `          ${command.name})
            _arguments -s -S \\
${[...specsOf(command), ...sharedSpecs(command, shared)].map((spec) => `              ${spec} \\`).join("\n")}
              && return 0
            ;;`,
  );
  const described = program.commands.map(({ name, summary }) => `    ${quote(`${name}:${summary}`)}`);
  return `#compdef ${program.name}
# zsh completion for ${program.name}. Made by: ${program.name} completion zsh
# Source it, or save it as _${program.name} in a directory of $fpath.

_erofs_nbd_devices() {
  local -a names
  names=(/sys/block/nbd*(N:t))
  (( $#1 )) && names=(/sys/block/nbd*/pid(N:h:t))
  compadd -a names
  compadd -a -p /dev/ names
}

_erofs_nbd_targets() {
  _erofs_nbd_devices used
  _files
}

_erofs_nbd_mountpoints() {
  local -a points
  points=(\${(f)"$(while read -r source directory rest; do
    [[ $source == /dev/nbd* ]] && print -r -- "\${(g:o:)directory}"
  done < /proc/self/mounts)"})
  compadd -a points
}

_erofs_nbd() {
  local curcontext=$curcontext state line
  typeset -A opt_args
  local -a commands
  commands=(
${described.join("\n")}
  )
  _arguments -C -S \\
${program.options.map((option) => `    ${optionSpec(option)} \\`).join("\n")}
    '1:command:->command' \\
    '*::word:->words' && return 0
  case $state in
    command) _describe -t commands command commands ;;
    words)
      curcontext=\${curcontext%:*}-$words[1]:
      case $words[1] in
${lines.join("\n")}
      esac
      ;;
  esac
}

if [[ $funcstack[1] == _${program.name} ]]; then
  _erofs_nbd "$@"
else
  compdef _erofs_nbd ${program.name}
fi
`;
}

function specsOf(command: CommandShape): string[] {
  const options = command.options.map((option) => optionSpec(option, command));
  const operands = command.operands.map((operand, at) => {
    const place = operand.isRepeated ? "*" : `${at + 1}`;
    return quote(`${place}:${escaped(operand.name)}:${action(kindOf(operand, command))}`);
  });
  return [...options, ...operands];
}

function sharedSpecs(command: CommandShape, shared: readonly OptionShape[]): string[] {
  const own = new Set(command.options.flatMap(({ names }) => names));
  return shared
    .filter(({ names }) => !names.some((name) => own.has(name)))
    .map((option) => optionSpec(option));
}

/** '(-o --options)'{-o,--options}'[summary]:OPTIONS:action' */
function optionSpec(option: OptionShape, command?: CommandShape): string {
  const { names, summary, value } = option;
  const completed = value === undefined ? "" : `:${escaped(value)}:${action(kindOf(option, command))}`;
  const rest = `[${escaped(summary)}]${completed}`;
  if (names.length === 1) return quote(`${names[0]}${value === undefined ? "" : "="}${rest}`);
  const spelled = names.map((name) => (value !== undefined && name.startsWith("--") ? `${name}=` : name));
  return `${quote(`(${names.join(" ")})`)}{${spelled.join(",")}}${quote(rest)}`;
}

function action(value: ValueKind): string {
  switch (value.kind) {
    case "nothing":
      return " ";
    case "file":
      return "_files";
    case "directory":
      return "_files -/";
    case "device":
      return "_erofs_nbd_devices";
    case "target":
      return "_erofs_nbd_targets";
    case "mountpoint":
      return "_erofs_nbd_mountpoints";
    case "words":
      return value.isList
        ? `_values -s , value ${value.words
            .map((word) => word.replace(/=$/, ":"))
            .map(escaped)
            .join(" ")}`
        : `(${value.words.join(" ")})`;
  }
}

/** Colons and brackets have a meaning within a specification. */
function escaped(text: string): string {
  return text.replace(/[:[\]\\]/g, "\\$&");
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
