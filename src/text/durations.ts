/**
 * Durations as text, for logs, errors and the command line. Each function is one format. Imports nothing.
 */

/** A measured duration: "12.5 ms", "1.07 s". */
export function formatDuration(milliseconds: number): string {
  return milliseconds < 1000 ? `${milliseconds.toFixed(1)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

/** A delay to come, never shown as 0: "200 ms", "3.2 s". */
export function formatDelay(milliseconds: number): string {
  return milliseconds < 1000 ? `${Math.ceil(milliseconds)} ms` : formatSeconds(milliseconds);
}

/** "0.3 s", "12.0 s". */
export function formatSeconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}
