/**
 * Limits the read errors of one link in the log: the first is reported at once, later ones as one line per interval
 * with their number. Used by LinkTable.
 */

const INTERVAL_MS = 5000;

export class ReadErrorLog {
  readonly #write: (message: string, count: number) => void;
  #count = 0;
  #last = "";
  #timer: NodeJS.Timeout | undefined;

  constructor(write: (message: string, count: number) => void) {
    this.#write = write;
  }

  add(error: Error): void {
    if (this.#timer === undefined) {
      this.#write(error.message, 1);
      this.#timer = setTimeout(() => this.#flush(), INTERVAL_MS).unref();
      return;
    }
    this.#count += 1;
    this.#last = error.message;
  }

  /** Reports what has not been reported. */
  close(): void {
    clearTimeout(this.#timer);
    this.#flush();
  }

  #flush(): void {
    this.#timer = undefined;
    if (this.#count > 0) this.#write(this.#last, this.#count);
    this.#count = 0;
  }
}
