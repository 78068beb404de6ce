/**
 * Quoting for a POSIX shell, for scripts and for command lines that users copy. Imports nothing.
 */

/** A word of a command line; quoted only where it must be. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
