/**
 * The context of a command: global options, output, signals and exit code.
 *
 * Created once per process by run.ts or mount-helper.ts. stdout carries results only; everything else goes to stderr.
 */
import { EXIT, type ExitCode, hasCode } from "../errors.ts";
import { withPriority } from "../log/journald.ts";
import { printable } from "../text/printable.ts";
import type { ProgramShape } from "./command-shapes.ts";
import { Interrupts } from "./interrupts.ts";

const STDOUT = 1;
const STDERR = 2;

/** Options of every command. */
export interface GlobalOptions {
  readonly runDir?: string;
  readonly verbose?: true;
}

export class CliContext {
  readonly interrupts: Interrupts = new Interrupts();
  /** The exit code when no error is thrown. */
  exitCode: ExitCode = EXIT.done;
  /** Set by commands that end when their output is closed. */
  onOutputGone: (() => void) | undefined;
  /** The whole command line as data, for commands that describe the others. Set by createProgram(). */
  describe: (() => Promise<ProgramShape>) | undefined;
  #commandName: string | undefined;
  #options: GlobalOptions = {};

  constructor() {
    // A failed write is reported to its callback and as an event; an event without a listener would end the process.
    process.stdout.on("error", () => {});
  }

  /** Called once, when the command and the global options are known. */
  begin(commandName: string, options: GlobalOptions): void {
    this.#commandName = commandName;
    this.#options = options;
  }

  /** Sets a run directory that comes from a mount option instead of --run-dir. */
  useRunDir(directory: string): void {
    this.#options = { ...this.#options, runDir: directory };
  }

  /** The name of the command; undefined before begin(). */
  get commandName(): string | undefined {
    return this.#commandName;
  }

  get isVerbose(): boolean {
    return this.#options.verbose === true;
  }

  /** The value of --run-dir. */
  get runDirOption(): string | undefined {
    return this.#options.runDir;
  }

  /**
   * Prints a result, one or more lines, to stdout. Resolves when they are written, and also when the reader has closed
   * the pipe, as `| head` does.
   */
  print(text: string): Promise<void> {
    return new Promise((resolve, reject) => {
      process.stdout.write(withPriority(STDOUT, "info", `${text}\n`), (error) => {
        if (error === null || error === undefined) resolve();
        else if (!hasCode(error, "EPIPE")) reject(error);
        else {
          this.onOutputGone?.();
          resolve();
        }
      });
    });
  }

  /** Prints a note, neither a result nor an error, to stderr as one line. */
  note(text: string): void {
    process.stderr.write(withPriority(STDERR, "note", `note: ${printable(text)}\n`));
  }

  /** Prints that the command waits for something, to stderr as one line. */
  waiting(text: string): void {
    process.stderr.write(withPriority(STDERR, "note", `erofs-nbd: ${printable(text)}\n`));
  }

  /** Prints a note with --verbose. */
  detail(text: string): void {
    if (this.isVerbose) this.note(text);
  }
}
