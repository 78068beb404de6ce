/**
 * Lines for systemd's journal: which stream leads there, and the priority that each line carries in front (sd-daemon(3)).
 *
 * Used by the log and by what the command line prints: the unit takes lines without a priority for last words. A leaf.
 */
import { fstatSync } from "node:fs";

export const PRIORITY = { error: 3, warn: 4, note: 5, info: 6, debug: 7 } as const;

/** systemd.exec(5): JOURNAL_STREAM is device and inode of the stream, and holds for a child only while it has the same. */
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

/** A text as it is written to a descriptor: with a priority before each line where the journal reads them. */
export function withPriority(fd: number, priority: keyof typeof PRIORITY, text: string): string {
  return isJournal(fd) ? text.replace(/^(?=.)/gm, `<${PRIORITY[priority]}>`) : text;
}
