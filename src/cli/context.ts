/**
 * What every command gets: the global options, the terminal, and a place for its exit code.
 *
 * Made once by main.ts. stdout carries results only; everything else goes to stderr.
 */
import { EXIT, type ExitCode } from "../errors.ts";
import { withPriority } from "../log/journald.ts";
import { printable } from "../text/printable.ts";
import type { ProgramShape } from "./command-shapes.ts";
import { Interrupts } from "./interrupts.ts";

const STDOUT = 1;
const STDERR = 2;

/** The options that every command takes. */
export interface GlobalOptions {
  readonly runDir?: string;
  readonly verbose?: true;
}

export class CliContext {
  readonly interrupts: Interrupts = new Interrupts();
  /** What the process ends with when no error is thrown. */
  exitCode: ExitCode = EXIT.done;
  /** Set by commands that have nothing left to do once nobody reads. */
  onOutputGone: (() => void) | undefined;
  /** The whole command line as data; set by whoever makes it, for commands that tell about the others. */
  describe: (() => Promise<ProgramShape>) | undefined;
  #commandName: string | undefined;
  #options: GlobalOptions = {};

  constructor() {
    // A failed write goes to its callback and to these listeners, too; without one it would end the process.
    process.stdout.on("error", () => {});
  }

  /** Called once the command and the global options are known. */
  begin(commandName: string, options: GlobalOptions): void {
    this.#commandName = commandName;
    this.#options = options;
  }

  /** A run directory that was named elsewhere than with --run-dir. */
  useRunDir(directory: string): void {
    this.#options = { ...this.#options, runDir: directory };
  }

  /** The command that runs; undefined while it is not known. */
  get commandName(): string | undefined {
    return this.#commandName;
  }

  get isVerbose(): boolean {
    return this.#options.verbose === true;
  }

  /** What was given as --run-dir. */
  get runDirOption(): string | undefined {
    return this.#options.runDir;
  }

  /**
   * A result: one or more lines on stdout. Resolves when they are out; also when whoever read them has gone, which is
   * how `| head` ends.
   */
  print(text: string): Promise<void> {
    return new Promise((resolve, reject) => {
      process.stdout.write(withPriority(STDOUT, "info", `${text}\n`), (error) => {
        if (error === null || error === undefined) resolve();
        else if ((error as NodeJS.ErrnoException).code !== "EPIPE") reject(error);
        else {
          this.onOutputGone?.();
          resolve();
        }
      });
    });
  }

  /** Something worth knowing that is no result and no error; in one line, whatever names are in it. */
  note(text: string): void {
    process.stderr.write(withPriority(STDERR, "note", `note: ${printable(text)}\n`));
  }

  /** That the command waits for something, in one line: no result, no error, and nothing to do about it. */
  waiting(text: string): void {
    process.stderr.write(withPriority(STDERR, "note", `erofs-nbd: ${printable(text)}\n`));
  }

  /** A note for those who asked for more. */
  detail(text: string): void {
    if (this.isVerbose) this.note(text);
  }
}
