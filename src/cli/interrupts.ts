/**
 * SIGINT and SIGTERM: a command with unfinished work claims them; any other command ends at once with exit code 8.
 *
 * One object per process, created with the context. It undoes nothing itself.
 */
import { constants } from "node:os";
import { ErofsNbdError, EXIT } from "../errors.ts";

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** While claimed this way, the first signal is remembered, and a second one ends the process. */
export interface Remembered {
  /** Aborted at the first signal. */
  readonly signal: AbortSignal;
  /** @throws ErofsNbdError ERR_INTERRUPTED after a signal; `act` follows "cannot " */
  check(act: string): void;
  /** From now on signals end the process again. */
  release(): void;
}

export class Interrupts {
  #claimed: ((signal: NodeJS.Signals) => void) | undefined;

  constructor() {
    for (const signal of SIGNALS) process.on(signal, () => this.#hear(signal));
  }

  /** Hands every signal to `onSignal` until the returned function is called. */
  claim(onSignal: (signal: NodeJS.Signals) => void): () => void {
    this.#claimed = onSignal;
    return () => {
      if (this.#claimed === onSignal) this.#claimed = undefined;
    };
  }

  /** Remembers a signal during work that has to be undone; `undoing` is printed. See {@link Remembered}. */
  remember(undoing: string): Remembered {
    const abort = new AbortController();
    let by: NodeJS.Signals | undefined;
    const release = this.claim((signal) => {
      if (by !== undefined) return leave(signal);
      by = signal;
      process.stderr.write(`note: interrupted: ${undoing} (${signal} again leaves at once)\n`);
      abort.abort();
    });
    return {
      signal: abort.signal,
      check: (act) => {
        if (by !== undefined)
          throw new ErofsNbdError("ERR_INTERRUPTED", `cannot ${act}: interrupted by ${by}`);
      },
      release,
    };
  }

  /** Resolves at the first signal; for commands that run until then. */
  wait(): Promise<NodeJS.Signals> {
    return new Promise((resolve) => {
      let heard = false;
      this.claim((signal) => {
        if (heard) return leave(signal);
        heard = true;
        resolve(signal);
      });
    });
  }

  #hear(signal: NodeJS.Signals): void {
    if (this.#claimed === undefined) leave(signal);
    else this.#claimed(signal);
  }
}

/** Exit code 8 is the contract for an interruption, instead of the 128 + n of shells. */
function leave(signal: NodeJS.Signals): never {
  process.stderr.write(`erofs-nbd: cannot finish: interrupted by ${signal} (${constants.signals[signal]})\n`);
  process.exit(EXIT.interrupted);
}
