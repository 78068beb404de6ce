/**
 * Checks the names and types of options before a request is sent to a manager. JSON would turn NaN into null, which
 * stands for a default, and would silently drop a misspelled option.
 *
 * Used by every entry of the library. The manager checks ranges. Loads nothing.
 */
import { inspect } from "node:util";
import { ErofsNbdError, invalidArgument } from "../errors.ts";

/** The type of an option. */
export interface OptionKind {
  /** What an error says is expected. */
  readonly expected: string;
  fits(value: unknown): boolean;
}

export const WHOLE: OptionKind = {
  expected: "a non-negative integer",
  fits: (value) => Number.isSafeInteger(value) && (value as number) >= 0,
};
export const WHOLE_OR_NEVER: OptionKind = {
  expected: "a non-negative integer, or 'never'",
  fits: (value) => value === "never" || WHOLE.fits(value),
};
export const DIRECTORY: OptionKind = {
  expected: "the path of a directory",
  fits: (value) => typeof value === "string" && value !== "",
};
export const SIGNAL: OptionKind = {
  expected: "an AbortSignal",
  fits: (value) => value instanceof AbortSignal,
};

export function oneOf(...values: readonly string[]): OptionKind {
  return { expected: `one of ${values.join(", ")}`, fits: (value) => values.includes(value as string) };
}

/** @throws ErofsNbdError ERR_BAD_ARGUMENT for an unknown option or one of the wrong type */
export function checkOptions(options: unknown, kinds: Readonly<Record<string, OptionKind>>): void {
  if (typeof options !== "object" || options === null)
    throw invalidArgument("options", show(options), "an object");
  for (const [name, value] of Object.entries(options)) {
    const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
    if (kind === undefined) throw unknownOption(name, `the options are ${Object.keys(kinds).join(", ")}`);
    if (value !== undefined && !kind.fits(value)) throw invalidArgument(name, show(value), kind.expected);
  }
}

export function unknownOption(name: string, hint: string): ErofsNbdError {
  return new ErofsNbdError("ERR_BAD_ARGUMENT", `unknown option '${name}'`, { hint });
}

/** A value as one short line. */
export function show(value: unknown): string {
  return inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY, maxStringLength: 80 });
}
