/**
 * How long a device that is between two states has made no progress: the basis of the service's watchdog.
 *
 * NetlinkDevice and its failover call `step` at each action. Each action has a deadline of its own, so steps are
 * never far apart. Time in which the kernel has a command does not count: a restarted manager would queue behind the
 * same command. The tracker only measures; it ends nothing.
 */
import type { NbdCommands } from "./ports.ts";

export class ProgressTracker {
  readonly #nbd: Pick<NbdCommands, "isBusyWith">;
  readonly #identifier: string;
  #steppedAt: number = performance.now();

  constructor(nbd: Pick<NbdCommands, "isBusyWith">, identifier: string) {
    this.#nbd = nbd;
    this.#identifier = identifier;
  }

  /** An action begins or is over. */
  step(): void {
    this.#steppedAt = performance.now();
  }

  /** Milliseconds since the last step; 0 while the kernel has a command of this device. */
  get silentMs(): number {
    return this.#nbd.isBusyWith(this.#identifier) ? 0 : performance.now() - this.#steppedAt;
  }
}
