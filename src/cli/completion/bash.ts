/**
 * Generates the completion script for bash (4.3 or newer). It is static, needs no other package and runs only builtins.
 *
 * Pure. Used by the completion command. The tables come from the command definitions, the code around them from here:
 * one function with three helpers.
 */
import type { ProgramShape } from "../command-shapes.ts";
import { kindOf, type ValueKind } from "./value-kinds.ts";

/** The whole script. */
export function bashScript(program: ProgramShape): string {
  const { commands } = program;
  const values = [
    ...program.options.map((option) => ({ prefix: "*", option, kind: kindOf(option) })),
    ...commands.flatMap((command) =>
      command.options.map((option) => ({ prefix: command.name, option, kind: kindOf(option, command) })),
    ),
  ].filter(({ option }) => option.value !== undefined);
  const valueCases = values.map(({ prefix, option, kind }) =>
    branch(
      option.names.map((name) => `${prefix}:${name}`),
      kind,
    ),
  );
  const operandCases = commands.flatMap((command) =>
    command.operands.map((operand, at) =>
      branch([`${command.name}:${operand.isRepeated ? "*" : at}`], kindOf(operand, command)),
    ),
  );
  const shared = program.options.flatMap(({ names }) => names);
  const optionCases = commands.map(({ name, options }) => {
    const all = new Set([
      ...options.flatMap(({ names }) => names),
      ...shared.filter((one) => one !== "--version"),
    ]);
    return `    ${name}) words="${[...all].join(" ")}" ;;`;
  });
  return `# bash completion for ${program.name}. Made by: ${program.name} completion bash
# Source it, or save it as ${program.name} in /usr/share/bash-completion/completions.

${HELPERS}
_erofs_nbd_value_kind() {
  case $1 in
${valueCases.join("\n")}
    *) return 1 ;;
  esac
}

_erofs_nbd_operand_kind() {
  case $1 in
${operandCases.join("\n")}
    *) return 1 ;;
  esac
}

_erofs_nbd_options() {
  case $1 in
${optionCases.join("\n")}
    *) words="${shared.join(" ")}" ;;
  esac
}

_erofs_nbd_commands="${commands.map(({ name }) => name).join(" ")}"

${COMPLETER}
complete -F _erofs_nbd ${program.name}
`;
}

/** A branch of a case that sets kind and, if needed, words. */
function branch(patterns: readonly string[], value: ValueKind): string {
  const kind = value.kind === "words" && value.isList ? "list" : value.kind;
  const words = value.kind === "words" ? ` words="${value.words.join(" ")}"` : "";
  return `    ${patterns.join(" | ")}) kind=${kind}${words} ;;`;
}

const HELPERS = `# Names of all nbd devices, or, with an argument, of those in use.
_erofs_nbd_devices() {
  local path
  for path in /sys/block/nbd*; do
    [[ -e $path && ( -z \${1-} || -e $path/pid ) ]] && printf '%s\\n' "\${path##*/}"
  done
}

# Where nbd devices are mounted; the kernel writes spaces as octal numbers.
_erofs_nbd_mountpoints() {
  local source directory
  while read -r source directory _; do
    [[ $source == /dev/nbd* ]] && printf '%b\\n' "$directory"
  done < /proc/self/mounts
}
`;

const COMPLETER = `_erofs_nbd() {
  local full="" command="" pending="" kind="" words="" piece word at operands=0 ended="" list="" begun
  # bash cuts words at = and : as well; put them together again.
  local -a all=()
  for ((at = 1; at <= COMP_CWORD; at++)); do
    piece=\${COMP_WORDS[at]}
    if ((\${#all[@]} > 0)) && [[ $piece == [=:]* || \${all[-1]} == *[=:] ]]; then
      all[-1]+=$piece
    else
      all+=("$piece")
    fi
  done
  full=\${all[-1]-}
  unset 'all[-1]'
  for word in "\${all[@]}"; do
    if [[ -n $pending ]]; then
      pending=""
    elif [[ -z $ended && $word == -- ]]; then
      ended=1
    elif [[ -z $ended && $word == -* ]]; then
      [[ $word != --*=* ]] && _erofs_nbd_value_kind "$command:$word" && pending=$word
    elif [[ -z $command ]]; then
      command=$word
    else
      operands=$((operands + 1))
    fi
  done

  kind=""
  words=""
  begun=$full
  if [[ -n $pending ]]; then
    _erofs_nbd_value_kind "$command:$pending"
  elif [[ -z $ended && $full == --*=* ]]; then
    begun=\${full#*=}
    _erofs_nbd_value_kind "$command:\${full%%=*}"
  elif [[ -z $ended && $full == -* ]]; then
    kind=words
    _erofs_nbd_options "$command"
  elif [[ -z $command ]]; then
    kind=words
    words=$_erofs_nbd_commands
  else
    _erofs_nbd_operand_kind "$command:$operands"
  fi

  COMPREPLY=()
  case $kind in
    words) words=\${words// /$'\\n'} ;;
    list)
      [[ $begun == *,* ]] && list=\${begun%,*},
      words=$list\${words// /$'\\n'$list}
      compopt -o nospace 2> /dev/null
      ;;
    device) words=$(_erofs_nbd_devices) ;;
    target) words=$(_erofs_nbd_devices used) ;;
    mountpoint) words=$(_erofs_nbd_mountpoints) ;;
  esac
  if [[ $kind == device || $kind == target ]] && [[ $begun == /* && -n $words ]]; then
    words=/dev/\${words//$'\\n'/$'\\n'/dev/}
  fi
  local plain=\${begun#[\\"\\']}
  plain=\${plain//\\\\/}
  # Not with compgen -W, which would expand what it is given.
  while IFS= read -r word; do
    [[ -n $word && $word == "$plain"* ]] && COMPREPLY+=("$word")
  done <<< "$words"
  case $kind in
    file | target) while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$plain") ;;
    directory) while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -d -- "$plain") ;;
  esac
  case $kind in
    file | directory | target | mountpoint) compopt -o filenames 2> /dev/null ;;
  esac
  # readline replaces its idea of the word ($2), which may begin later or earlier than what we have completed.
  local before=\${full%"$begun"} head=\${full%"\${2-}"}
  for at in "\${!COMPREPLY[@]}"; do
    word=$before\${COMPREPLY[at]}
    COMPREPLY[at]=\${word#"$head"}
  done
}`;
