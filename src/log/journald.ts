/**
 * Output to journald: which descriptor leads there, and the priority prefix of each line (sd-daemon(3)).
 *
 * Used by the log and by the command line. The unit logs lines without a prefix as errors.
 */
import { fstatSync } from "node:fs";

export const PRIORITY = { error: 3, warn: 4, note: 5, info: 6, debug: 7 } as const;

/** systemd.exec(5): JOURNAL_STREAM has the device and inode of the stream. A child may have another stderr. */
export function isJournal(fd: number): boolean {
  const stream = process.env["JOURNAL_STREAM"];
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(fd);
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** A text for a descriptor: each line gets a priority prefix if journald reads them. */
export function withPriority(fd: number, priority: keyof typeof PRIORITY, text: string): string {
  return isJournal(fd) ? text.replace(/^(?=.)/gm, `<${PRIORITY[priority]}>`) : text;
}
