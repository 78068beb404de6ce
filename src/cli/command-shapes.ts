/**
 * What the command line consists of, as plain data: commands, options, operands, what stands in for a value, help texts.
 *
 * Read from commander's definitions, the only place where they are written down. Completion scripts and manual pages are
 * made of this, so neither can tell of an option that is not there.
 */
import type { Argument, Command, Option } from "commander";

/** An option with its spellings. */
export interface OptionShape {
  /** Short first, for example ["-o", "--options"]. */
  readonly names: readonly string[];
  /** What stands for its value, for example "SECONDS"; undefined: it takes none. */
  readonly value: string | undefined;
  readonly summary: string;
  readonly defaultText: string | undefined;
  readonly choices: readonly string[];
}

/** A word that is no option. */
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
  /** What its help says below the options. */
  readonly notes: string;
}

export interface ProgramShape {
  readonly name: string;
  readonly summary: string;
  readonly version: string;
  /** Those that every command takes, too. */
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

/** Help texts are printed, not kept: print, and cut off what commander itself has written. */
function notesOf(command: Command): string {
  const printed: string[] = [];
  const output = command.configureOutput();
  command.configureOutput({ ...output, writeOut: (text) => printed.push(text) });
  command.outputHelp();
  command.configureOutput(output);
  return printed.join("").slice(command.helpInformation().length).trim();
}
