/**
 * Rethrows listener exceptions asynchronously, so that they cannot break the dispatch of events.
 *
 * Used where events from a manager are dispatched: by the client and by the library. A leaf.
 */

/** Runs `tell`. An exception is rethrown in the next turn of the event loop, as an uncaught one of the program. */
export function isolateListener(tell: () => void): void {
  try {
    tell();
  } catch (error) {
    setImmediate(() => {
      throw error;
    });
  }
}
