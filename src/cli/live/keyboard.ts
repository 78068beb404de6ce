/**
 * The keys that the live table hears, and that nobody sees: while it is up, the terminal neither echoes them into it nor makes
 * signals of them.
 *
 * Used by screen.ts, which says when. Nothing of it happens where stdin is no terminal.
 */
import type { ReadStream } from "node:tty";

/** The part of a terminal's input that is used here. */
export type Keys = Pick<ReadStream, "setRawMode" | "on" | "off" | "resume" | "pause"> & {
  readonly isTTY?: boolean;
};

export interface KeyListener {
  /** q, or Ctrl-C. */
  quit(): void;
  /** Ctrl-Z. */
  suspend(): void;
}

const CTRL_C = "\u0003";
const CTRL_Z = "\u001a";
/** What arrow keys and their like send; a letter in it is none that was typed. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: that is how they begin
const SEQUENCES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?/gs;

export class Keyboard {
  readonly #keys: Keys;
  readonly #listener: KeyListener;
  #isGrabbed = false;

  constructor(keys: Keys, listener: KeyListener) {
    this.#keys = keys;
    this.#listener = listener;
  }

  grab(): void {
    if (this.#isGrabbed || this.#keys.isTTY !== true) return;
    this.#isGrabbed = true;
    this.#keys.setRawMode(true);
    this.#keys.on("data", this.#hear);
    this.#keys.on("error", this.#gone);
    this.#keys.resume();
  }

  /** The terminal's input is as it was. */
  release(): void {
    if (!this.#isGrabbed) return;
    this.#isGrabbed = false;
    this.#keys.off("data", this.#hear);
    this.#keys.pause();
    try {
      this.#keys.setRawMode(false);
    } catch {
      // EIO: there is no terminal any more.
    }
  }

  readonly #hear = (chunk: Buffer | string): void => {
    for (const key of String(chunk).replace(SEQUENCES, "")) {
      if (key === "q" || key === "Q" || key === CTRL_C) return this.#listener.quit();
      if (key === CTRL_Z) this.#listener.suspend();
    }
  };

  /** EIO, when the terminal hangs up: its output tells. */
  readonly #gone = (): void => {};
}
