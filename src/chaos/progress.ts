/**
 * What a run says while it runs, on stderr: one line rewritten every second on a terminal, else one line per fault.
 *
 * Lines that must not be missed (the seed, notes, problems) stay on a terminal, too. It decides nothing and measures
 * nothing; `now` is asked for the present line once a second.
 */

import { printable } from "../text/printable.ts";

export interface ProgressOutput {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

const REDRAW_MS = 1000;
/** Carriage return, then «erase to the end of the line» (ECMA-48 EL). */
const REWRITE = "\r\u001b[K";

export class Progress {
  readonly #out: ProgressOutput;
  readonly #timer: NodeJS.Timeout | undefined;
  #now: () => string = () => "";

  constructor(out: ProgressOutput) {
    this.#out = out;
    if (out.isTTY) this.#timer = setInterval(() => this.#draw(), REDRAW_MS).unref();
  }

  /** What the rewritten line says from now on. */
  set now(describe: () => string) {
    this.#now = describe;
  }

  /** A line that stays. */
  say(line: string): void {
    this.#out.write(`${this.#timer === undefined ? "" : REWRITE}${printable(line)}\n`);
    this.#draw();
  }

  /** A line that stays where the present line is not shown. */
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
