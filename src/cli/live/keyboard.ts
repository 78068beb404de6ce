/**
 * Keyboard input of the live table. While it is shown, the terminal is in raw mode: it does not echo keys or turn them
 * into signals.
 *
 * Used by screen.ts. Does nothing if stdin is not a terminal.
 */
import type { ReadStream } from "node:tty";

/** The part of tty.ReadStream that is used here. */
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
/** Escape sequences of arrow keys and the like, whose letters are not typed letters. */
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

  /** Restores the terminal's input mode. */
  release(): void {
    if (!this.#isGrabbed) return;
    this.#isGrabbed = false;
    this.#keys.off("data", this.#hear);
    this.#keys.pause();
    try {
      this.#keys.setRawMode(false);
    } catch {
      // EIO: the terminal is gone.
    }
  }

  readonly #hear = (chunk: Buffer | string): void => {
    for (const key of String(chunk).replace(SEQUENCES, "")) {
      if (key === "q" || key === "Q" || key === CTRL_C) return this.#listener.quit();
      if (key === CTRL_Z) this.#listener.suspend();
    }
  };

  /** EIO when the terminal hangs up, which the output stream reports. */
  readonly #gone = (): void => {};
}
