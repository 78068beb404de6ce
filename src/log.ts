/**
 * The manager's log: JSON lines on stderr (which a manager that started by itself has as its log file).
 *
 * One place decides the format; everything else gets a `Log` passed in. Written synchronously, because the last
 * line before a death is the one that matters.
 */
import { pino } from "pino";

export interface Log {
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
}

/** What cannot be written is kept up to this much, then dropped. */
const MAX_UNWRITTEN_BYTES = 1 << 20;

export function createLog(): Log {
  const destination = pino.destination({ fd: 2, sync: true, maxLength: MAX_UNWRITTEN_BYTES });
  // A full disk must cost lines, not devices: without a listener the error is thrown into whoever logs.
  destination.on("error", () => {});
  const logger = pino({ base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime }, destination);
  return {
    info: (message, fields = {}) => logger.info(fields, message),
    warn: (message, fields = {}) => logger.warn(fields, message),
    error: (message, fields = {}) => logger.error(fields, message),
  };
}
