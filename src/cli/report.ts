/**
 * Any error as what the user sees: `erofs-nbd: CANNOT WHAT: WHY`, a hint where there is one, and an exit code.
 *
 * Called by the programs' entries. Errors are known by shape (message, code, hint, exitCode), because those of
 * netlink/, of the manager, of src/ and of commander, which is not loaded for this, are different classes. What has
 * no such shape is a bug of ours and is shown with its stack.
 */
import { ErofsNbdError, EXIT, type ExitCode, exitCodeOf } from "../errors.ts";
import { toSourceLines } from "../log/source-lines.ts";
import { printable } from "../text/printable.ts";

interface ErrorShape {
  readonly code?: unknown;
  readonly hint?: unknown;
  readonly syscall?: unknown;
  readonly path?: unknown;
}

/** What commander throws: wrong usage, and what was asked for and is done (`--help`). */
interface CommanderShape extends Error {
  readonly code: string;
  readonly exitCode: number;
}

/** The exit code that an error stands for. */
export function exitCodeOfError(error: unknown): ExitCode {
  if (isCommanderError(error)) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
  return exitCodeOf(error instanceof Error && isOurShape(error) ? asKnown(error) : error);
}

/** Lines for stderr, "" when there is nothing to say (help was asked for). */
export function formatError(error: unknown, isVerbose: boolean, commandName?: string): string {
  if (isCommanderError(error)) return formatUsage(error, commandName);
  const known = error instanceof Error ? error : new Error(String(error));
  const isBug = exitCodeOfError(error) === EXIT.bug;
  const shape = known as ErrorShape;
  const message = isBug && !isOurShape(known) ? `cannot go on: ${known.message}` : readable(known);
  const hint = isBug
    ? (shape.hint ?? "this is a bug of ours: please report it with the lines below")
    : shape.hint;
  const lines = [`erofs-nbd: ${oneLine(message)}`];
  if (typeof hint === "string") lines.push(`hint: ${oneLine(hint)}`);
  if (isVerbose && typeof shape.code === "string") lines.push(`code: ${printable(shape.code)}`);
  if (isVerbose || isBug) lines.push(...stacksOf(known));
  return `${lines.join("\n")}\n`;
}

function isCommanderError(error: unknown): error is CommanderShape {
  const { code } = (error ?? {}) as ErrorShape;
  return error instanceof Error && typeof code === "string" && code.startsWith("commander.");
}

/** commander's «error: unknown option '--foo'», with its suggestion on a second line, in our words. */
function formatUsage(error: CommanderShape, commandName: string | undefined): string {
  if (error.exitCode === 0 || error.code === "commander.help") return "";
  const message = error.message.replace(/^error: /, "");
  // Other line breaks are those of a word that was not understood.
  const suggestion = /\n\((Did you mean [^\n]*)\)$/.exec(message);
  const why = message.slice(0, suggestion?.index);
  const hint = suggestion?.[1] ?? helpHint(commandName);
  return `erofs-nbd: cannot understand the command line: ${oneLine(why)}\nhint: ${oneLine(hint)}\n`;
}

function helpHint(commandName: string | undefined): string {
  return commandName === undefined
    ? "erofs-nbd --help lists the commands"
    : `see erofs-nbd ${commandName} --help`;
}

/** Errors of ours, wherever they were made: a stable code and a sentence that begins with "cannot" (a manager of a former version says "Cannot"). */
function isOurShape(error: Error): boolean {
  const { code } = error as ErrorShape;
  return typeof code === "string" && code.startsWith("ERR_") && /^cannot /i.test(error.message);
}

/** An error of our shape and of an unknown class counts as what its code says; the kernel's and the system's as such. */
function asKnown(error: Error): unknown {
  if (error instanceof ErofsNbdError || "errno" in error || "exitCode" in error) return error;
  return new ErofsNbdError("ERR_SYSCALL", error.message);
}

/** Node's own system errors say «ENOENT: no such file or directory, open '/x'». */
function readable(error: Error): string {
  const { code, syscall, path } = error as ErrorShape;
  if (/^cannot /i.test(error.message) || typeof syscall !== "string") return error.message;
  return `cannot ${syscall}${typeof path === "string" ? ` ${path}` : ""}: ${String(code)}`;
}

/** A file name may hold line breaks and what a terminal obeys; our messages may not. */
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

/** With the lines of its message indented as its frames are: none can pass for one of ours. */
function stackOf(error: Error): string {
  const [first = "", ...more] = toSourceLines(error.stack ?? error.message)
    .split("\n")
    .map(printable);
  return [first, ...more.map((line) => `    ${line.trimStart()}`)].join("\n");
}
