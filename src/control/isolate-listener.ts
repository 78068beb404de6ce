/**
 * Calls listeners that belong to somebody's program: what they throw is his uncaught error, and not ours to choke on.
 *
 * Used where events arrive from a manager: by its client, and by the library for what it passes on. A leaf.
 */

/** Runs `tell`; what it throws ends nothing here, and is thrown on the event loop's next turn, as if nobody had called it. */
export function isolateListener(tell: () => void): void {
  try {
    tell();
  } catch (error) {
    setImmediate(() => {
      throw error;
    });
  }
}
