/**
 * Progress of a run on stderr: one line rewritten every second on a terminal, else one line per fault.
 *
 * Important lines (the seed, notes, problems) stay on a terminal, too. It decides nothing and measures
 * nothing; `now` is called for the present line once a second.
 */

import { printable } from "../text/printable.ts";

export interface ProgressOutput {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

const REDRAW_MS = 1000;
/** Carriage return, then "erase to the end of the line" (ECMA-48 EL). */
const REWRITE = "\r\u001b[K";

export class Progress {
  readonly #out: ProgressOutput;
  readonly #timer: NodeJS.Timeout | undefined;
  #now: () => string = () => "";

  constructor(out: ProgressOutput) {
    this.#out = out;
    if (out.isTTY) this.#timer = setInterval(() => this.#draw(), REDRAW_MS).unref();
  }

  /** Sets the source of the rewritten line. */
  set now(describe: () => string) {
    this.#now = describe;
  }

  /** Prints a permanent line. */
  say(line: string): void {
    this.#out.write(`${this.#timer === undefined ? "" : REWRITE}${printable(line)}\n`);
    this.#draw();
  }

  /** Prints a permanent line, but only where no rewritten line is shown. */
  step(line: string): void {
    if (this.#timer === undefined) this.#out.write(`${printable(line)}\n`);
    else this.#draw();
  }

  close(): void {
    clearInterval(this.#timer);
    if (this.#timer !== undefined) this.#out.write(REWRITE);
    this.#now = () => "";
  }

  #draw(): void {
    if (this.#timer === undefined) return;
    const text = printable(this.#now());
    if (text !== "")
      this.#out.write(`${REWRITE}${text.slice(0, Math.max(20, (this.#out.columns ?? 80) - 1))}`);
  }
}
