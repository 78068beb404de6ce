/**
 * Shows frames on the alternate screen of a terminal, without a cursor, and restores the terminal afterwards.
 *
 * Used by live.ts. A frame is a single write over the last one, so that it does not flicker. The terminal is restored
 * however the process ends, except by SIGKILL, and before an error is printed. Ctrl-Z and fg work.
 */
import { writeSync } from "node:fs";
import type { WriteStream } from "node:tty";
import { Keyboard, type Keys } from "./keyboard.ts";

/** Alternate screen, no cursor, no line wrapping. */
const ENTER = "\u001b[?1049h\u001b[?25l\u001b[?7l";
const LEAVE = "\u001b[?7h\u001b[?25h\u001b[?1049l";
/** Synchronized output: a terminal that supports it shows the whole frame at once; others ignore it. */
const BEGIN = "\u001b[?2026h\u001b[H";
const END = "\u001b[J\u001b[?2026l";
const END_LINE = "\u001b[K";

/** The part of tty.WriteStream that is used here. */
export type Terminal = Pick<WriteStream, "columns" | "rows" | "on" | "off"> & {
  write(text: string): boolean;
  readonly fd: number;
};

const DEFAULT_COLUMNS = 80;
const DEFAULT_ROWS = 24;

export interface ScreenListener {
  /** The frame must be drawn again. */
  redraw(): void;
  /** The user ends the program. */
  quit(): void;
}

export class Screen {
  readonly #terminal: Terminal;
  readonly #keyboard: Keyboard;
  readonly #redraw: () => void;
  #isUp = false;
  #isFull = false;

  constructor(terminal: Terminal, keys: Keys, { redraw, quit }: ScreenListener) {
    this.#terminal = terminal;
    this.#keyboard = new Keyboard(keys, {
      quit,
      // To the whole process group, as the terminal does it, because sudo may be part of the job.
      suspend: () => process.kill(0, "SIGTSTP"),
    });
    this.#redraw = redraw;
  }

  get columns(): number {
    return this.#terminal.columns || DEFAULT_COLUMNS;
  }

  get rows(): number {
    return this.#terminal.rows || DEFAULT_ROWS;
  }

  enter(): void {
    this.#show();
    this.#terminal.on("resize", this.#redraw);
    this.#terminal.on("drain", this.#drained);
    process.on("exit", this.#restore);
    process.on("uncaughtExceptionMonitor", this.#restore);
    process.on("SIGTSTP", this.#suspend);
    process.on("SIGCONT", this.#resume);
  }

  /** The terminal truncates lines that are too wide; lines that do not fit its height are left out. */
  draw(lines: readonly string[]): void {
    // A slow terminal gets fewer frames instead of late ones.
    if (!this.#isUp || this.#isFull) return;
    const shown = lines.slice(0, this.rows).map((line) => line + END_LINE);
    this.#isFull = !this.#terminal.write(BEGIN + shown.join("\r\n") + END);
  }

  leave(): void {
    this.#terminal.off("resize", this.#redraw);
    this.#terminal.off("drain", this.#drained);
    process.off("exit", this.#restore);
    process.off("uncaughtExceptionMonitor", this.#restore);
    process.off("SIGTSTP", this.#suspend);
    process.off("SIGCONT", this.#resume);
    this.#restore();
  }

  readonly #drained = (): void => {
    this.#isFull = false;
    this.#redraw();
  };

  readonly #restore = (): void => {
    if (!this.#isUp) return;
    this.#isUp = false;
    this.#keyboard.release();
    try {
      writeSync(this.#terminal.fd, LEAVE);
    } catch {
      // EIO, EPIPE: the terminal is gone. EAGAIN: it accepts no data.
    }
  };

  /** Stops with the default action of SIGTSTP, which the kernel ignores for an orphaned process group. */
  readonly #suspend = (): void => {
    this.#restore();
    process.off("SIGTSTP", this.#suspend);
    process.kill(process.pid, "SIGTSTP");
    process.on("SIGTSTP", this.#suspend);
    this.#resume();
  };

  readonly #resume = (): void => {
    if (this.#isUp) return;
    this.#show();
    this.#redraw();
  };

  #show(): void {
    this.#isUp = true;
    this.#keyboard.grab();
    this.#terminal.write(ENTER);
  }
}
