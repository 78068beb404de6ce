/**
 * The command line as plain data: commands, options, operands and help texts.
 *
 * Read from commander's definitions, the only source. Completion scripts and manual pages are generated from it, so
 * they cannot list an option that does not exist.
 */
import type { Argument, Command, Option } from "commander";

/** An option with its spellings. */
export interface OptionShape {
  /** Short first, for example ["-o", "--options"]. */
  readonly names: readonly string[];
  /** The placeholder of its value, for example "SECONDS"; undefined if it takes none. */
  readonly value: string | undefined;
  readonly summary: string;
  readonly defaultText: string | undefined;
  readonly choices: readonly string[];
}

/** A positional argument. */
export interface OperandShape {
  /** As in a usage line, for example "IMAGE". */
  readonly name: string;
  readonly isOptional: boolean;
  readonly isRepeated: boolean;
  readonly summary: string;
  readonly choices: readonly string[];
}

export interface CommandShape {
  readonly name: string;
  readonly summary: string;
  readonly options: readonly OptionShape[];
  readonly operands: readonly OperandShape[];
  /** The help text below the options. */
  readonly notes: string;
}

export interface ProgramShape {
  readonly name: string;
  readonly summary: string;
  readonly version: string;
  /** Options of every command. */
  readonly options: readonly OptionShape[];
  readonly commands: readonly CommandShape[];
  readonly notes: string;
}

/** @param program with all of its commands defined */
export function describeProgram(program: Command): ProgramShape {
  const visible = program.createHelp().visibleCommands(program);
  return {
    name: program.name(),
    summary: program.description(),
    version: program.version() ?? "",
    options: optionsOf(program),
    commands: visible.map((command) => ({
      name: command.name(),
      summary: command.description(),
      options: optionsOf(command),
      operands: command.registeredArguments.map(describeOperand),
      notes: notesOf(command),
    })),
    notes: notesOf(program),
  };
}

function optionsOf(command: Command): OptionShape[] {
  return command.createHelp().visibleOptions(command).map(describeOption);
}

function describeOption(option: Option): OptionShape {
  return {
    names: [option.short, option.long].filter((name) => name !== undefined && name !== null),
    value: /[<[]([^>\]]+)[>\]]/.exec(option.flags)?.[1],
    summary: option.description,
    defaultText: option.defaultValueDescription,
    choices: option.argChoices ?? [],
  };
}

function describeOperand(argument: Argument): OperandShape {
  return {
    name: argument.name(),
    isOptional: !argument.required,
    isRepeated: argument.variadic,
    summary: argument.description,
    choices: argument.argChoices ?? [],
  };
}

/** Commander does not store added help texts, it prints them: capture the output and cut off commander's own part. */
function notesOf(command: Command): string {
  const printed: string[] = [];
  const output = command.configureOutput();
  command.configureOutput({ ...output, writeOut: (text) => printed.push(text) });
  command.outputHelp();
  command.configureOutput(output);
  return printed.join("").slice(command.helpInformation().length).trim();
}
