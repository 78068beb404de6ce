/**
 * Formats any error for stderr: `erofs-nbd: MESSAGE`, a hint line if there is one, and the exit code.
 *
 * Used by the entries of both programs. An error is recognised by its code, because netlink/, the manager, src/ and
 * commander (not loaded here) have classes of their own. An error without a known code and without an errno is an
 * internal error and is shown with its stack.
 */
import { ErofsNbdError, EXIT, type ExitCode, exitCodeOf, isErrorCode } from "../errors.ts";
import { toSourceLines } from "../log/source-lines.ts";
import { printable } from "../text/printable.ts";
import { koffiFault } from "./doctor/koffi-fault.ts";

interface ErrorShape {
  readonly code?: unknown;
  readonly hint?: unknown;
  readonly syscall?: unknown;
  readonly path?: unknown;
}

/** What commander throws: wrong usage, or `--help` and `--version` after they have printed. */
interface CommanderShape extends Error {
  readonly code: string;
  readonly exitCode: number;
}

/** The exit code of an error. */
export function exitCodeOfError(thrown: unknown): ExitCode {
  const error = koffiFault(thrown) ?? thrown;
  if (isCommanderError(error)) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
  return exitCodeOf(error instanceof Error && isKnown(error) ? asKnown(error) : error);
}

/** The lines for stderr; "" after `--help` and `--version`. */
export function formatError(thrown: unknown, isVerbose: boolean, commandName?: string): string {
  const error = koffiFault(thrown) ?? thrown;
  if (isCommanderError(error)) return formatUsage(error, commandName);
  const known = error instanceof Error ? error : new Error(String(error));
  const isBug = exitCodeOfError(error) === EXIT.bug;
  const shape = known as ErrorShape;
  const message = isBug ? `${INTERNAL}: ${known.message}` : readable(known);
  const hint = isBug ? (shape.hint ?? "please report it with the lines below") : shape.hint;
  const lines = [`erofs-nbd: ${oneLine(message)}`];
  if (typeof hint === "string") lines.push(`hint: ${oneLine(hint)}`);
  if (isVerbose && typeof shape.code === "string") lines.push(`code: ${printable(shape.code)}`);
  if (isVerbose || isBug) lines.push(...stacksOf(known));
  return `${lines.join("\n")}\n`;
}

const INTERNAL = "internal error (a bug in erofs-nbd)";

function isCommanderError(error: unknown): error is CommanderShape {
  const { code } = (error ?? {}) as ErrorShape;
  return error instanceof Error && typeof code === "string" && code.startsWith("commander.");
}

/** Commander says `error: unknown option '--forse'` and, on a second line, `(Did you mean --force?)`. */
function formatUsage(error: CommanderShape, commandName: string | undefined): string {
  if (error.exitCode === 0 || error.code === "commander.help") return "";
  const message = error.message.replace(/^error: /, "");
  // Any other line break belongs to the quoted word.
  const line = message.replace(/\n\(Did you mean ([^\n]*)\)$/, " (did you mean $1)");
  return `erofs-nbd: ${oneLine(line)}\nhint: ${helpHint(commandName)}\n`;
}

function helpHint(commandName: string | undefined): string {
  return commandName === undefined
    ? "erofs-nbd --help lists the commands"
    : `see erofs-nbd ${commandName} --help`;
}

/**
 * Whether erofs-nbd made the error: what a manager of any version reported, an error with a code of this version, or
 * one of netlink/. The code decides, not the wording: former managers begin their messages with "Cannot". Node.js has
 * codes such as ERR_INVALID_ARG_TYPE, which are in no table here.
 */
function isKnown(error: Error): boolean {
  const { code } = error as ErrorShape;
  return error instanceof ErofsNbdError || isErrorCode(code) || isNetlinkCode(code);
}

const isNetlinkCode = (code: unknown): code is string =>
  typeof code === "string" && code.startsWith("ERR_NETLINK_");

/**
 * A known error of another class counts as its code says; one with an errno or an exit code of its own says it itself.
 */
function asKnown(error: Error): unknown {
  if (error instanceof ErofsNbdError || "errno" in error || "exitCode" in error) return error;
  const { code } = error as ErrorShape;
  return new ErofsNbdError(isErrorCode(code) ? code : "ERR_SYSCALL", error.message);
}

/** System errors of Node.js say `ENOENT: no such file or directory, open '/x'`. */
function readable(error: Error): string {
  const { code, syscall, path } = error as ErrorShape;
  if (isKnown(error) || typeof syscall !== "string") return error.message;
  return `cannot ${syscall}${typeof path === "string" ? ` ${path}` : ""}: ${String(code)}`;
}

/** File names may contain line breaks and terminal control sequences. */
function oneLine(text: string): string {
  return printable(text.trim());
}

function stacksOf(error: Error): string[] {
  const lines = [stackOf(error)];
  const seen = new Set<unknown>([error]);
  for (let cause = error.cause; cause !== undefined && !seen.has(cause); ) {
    seen.add(cause);
    lines.push(`caused by: ${cause instanceof Error ? stackOf(cause) : oneLine(String(cause))}`);
    cause = cause instanceof Error ? cause.cause : undefined;
  }
  return lines;
}

/** Indents the further lines of a message like frames, so that none of them passes for a line of erofs-nbd. */
function stackOf(error: Error): string {
  const [first = "", ...more] = toSourceLines(error.stack ?? error.message)
    .split("\n")
    .map(printable);
  return [first, ...more.map((line) => `    ${line.trimStart()}`)].join("\n");
}
