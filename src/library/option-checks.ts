/**
 * Refuses what a program can get wrong before anything is asked of a manager: JSON would turn NaN into null, which stands for
 * a default, and a misspelled option would be left out in silence.
 *
 * Whether numbers are in their ranges is the manager's to say. Loads nothing.
 */
import { inspect } from "node:util";
import { ErofsNbdError } from "../errors.ts";

/** What an option may be; `of` says it in words. */
export interface OptionKind {
  readonly of: string;
  fits(value: unknown): boolean;
}

export const WHOLE: OptionKind = {
  of: "a whole number",
  fits: (value) => Number.isSafeInteger(value) && (value as number) >= 0,
};
export const WHOLE_OR_NEVER: OptionKind = {
  of: "a whole number, or «never»",
  fits: (value) => value === "never" || WHOLE.fits(value),
};
export const DIRECTORY: OptionKind = {
  of: "the path of a directory",
  fits: (value) => typeof value === "string" && value !== "",
};
export const SIGNAL: OptionKind = { of: "an AbortSignal", fits: (value) => value instanceof AbortSignal };

export function oneOf(...values: readonly string[]): OptionKind {
  return { of: `one of ${values.join(", ")}`, fits: (value) => values.includes(value as string) };
}

/** `act` follows «cannot ». @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function checkOptions(
  act: string,
  options: unknown,
  kinds: Readonly<Record<string, OptionKind>>,
): void {
  if (typeof options !== "object" || options === null)
    throw badArgument(act, `options are an object, and not ${show(options)}`);
  for (const [name, value] of Object.entries(options)) {
    const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
    if (kind === undefined)
      throw badArgument(act, `there is no option «${name}»`, `there are ${Object.keys(kinds).join(", ")}`);
    if (value !== undefined && !kind.fits(value))
      throw badArgument(act, `${name} must be ${kind.of}, and is ${show(value)}`);
  }
}

export function badArgument(act: string, why: string, hint?: string): ErofsNbdError {
  return new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot ${act}: ${why}`, { hint });
}

/** A value in one short line. */
export function show(value: unknown): string {
  return inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY, maxStringLength: 80 });
}
