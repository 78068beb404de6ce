/**
 * A terminal that shows one frame after another: on its second screen, without a cursor, and given back as it was.
 *
 * Used by live.ts. A frame is one write that paints over the last one, so nothing flickers. However the process ends, short of
 * SIGKILL, the terminal is restored, before an error is written to it; Ctrl-Z and fg work.
 */
import { writeSync } from "node:fs";
import type { WriteStream } from "node:tty";
import { Keyboard, type Keys } from "./keyboard.ts";

/** Second screen, no cursor, no wrapping at the right edge. */
const ENTER = "\u001b[?1049h\u001b[?25l\u001b[?7l";
const LEAVE = "\u001b[?7h\u001b[?25h\u001b[?1049l";
/** A terminal that knows them shows what is between them at once; others ignore them. */
const BEGIN = "\u001b[?2026h\u001b[H";
const END = "\u001b[J\u001b[?2026l";
const END_LINE = "\u001b[K";

/** The part of a terminal that is used here. */
export type Terminal = Pick<WriteStream, "columns" | "rows" | "on" | "off"> & {
  write(text: string): boolean;
  readonly fd: number;
};

const DEFAULT_COLUMNS = 80;
const DEFAULT_ROWS = 24;

export interface ScreenListener {
  /** The last frame is not what should be seen any more. */
  redraw(): void;
  /** Whoever looks has seen enough. */
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
      // As the terminal would do it, for all processes of the job: sudo among them.
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

  /** Lines that are wider than the terminal are cut by it; more lines than it has are left out. */
  draw(lines: readonly string[]): void {
    // Whoever reads slowly gets fewer frames, not older ones.
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
      // EIO, EPIPE: there is no terminal any more. EAGAIN: it takes nothing.
    }
  };

  /** Stops as whoever has no handler does: not at all where nobody could let it go on, such as in a session of its own. */
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
