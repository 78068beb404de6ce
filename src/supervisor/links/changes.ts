/** Lets code wait for the next change of a device's links. Used by LinkSet and DeviceLink. */
export class Changes {
  readonly #listeners = new Set<() => void>();

  notify(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  /** Resolves at the next change, or when the signal aborts. */
  next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#listeners.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#listeners.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }

  /** Runs `work` with a signal that aborts when the outer signal does, or when a change makes `isOver` true. */
  async until<T>(
    isOver: () => boolean,
    outer: AbortSignal,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const controller = new AbortController();
    const look = (): void => {
      if (outer.aborted || isOver()) controller.abort(outer.reason);
    };
    this.#listeners.add(look);
    outer.addEventListener("abort", look, { once: true });
    look();
    try {
      return await work(controller.signal);
    } finally {
      this.#listeners.delete(look);
      outer.removeEventListener("abort", look);
    }
  }
}
