/**
 * Whether a device that is between two states is being worked on: the proof behind a service's watchdog.
 *
 * The supervisor says `step` at each thing it does; each has a deadline of its own, so that none should be far from the
 * one before. Time in which the kernel has a command and does not answer is not held against it: a manager that starts
 * anew would only queue behind the same command. Keeps the books, ends nothing.
 */
import type { NbdCommands } from "./ports.ts";

export class ProgressTracker {
  #steppedAt: number = performance.now();
  #commands = 0;

  /** Something was begun, or is over. */
  step(): void {
    this.#steppedAt = performance.now();
  }

  /** For how long nothing was done, in milliseconds; 0 while the kernel has the word. */
  get silentMs(): number {
    return this.#commands > 0 ? 0 : performance.now() - this.#steppedAt;
  }

  /** The same commands; while one runs, the kernel has the word. */
  watch(nbd: NbdCommands): NbdCommands {
    return {
      connect: (options) => this.#during(nbd.connect(options)),
      reconfigure: (options) => this.#during(nbd.reconfigure(options)),
      disconnect: (index) => this.#during(nbd.disconnect(index)),
      status: (index) => this.#during(nbd.status(index)),
    };
  }

  async #during<T>(command: Promise<T>): Promise<T> {
    this.#commands += 1;
    try {
      return await command;
    } finally {
      this.#commands -= 1;
      this.step();
    }
  }
}
