/**
 * Escapes foreign text for one line of a terminal or a page: file names, messages of modules, workers and programs.
 *
 * Used by the command line and the chaos report. Every command loads it, so it imports nothing.
 */

/** Control characters (including C1: U+009B is the same as ESC [), bidirectional controls, and Unicode line ends. */
const UNPRINTABLE = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu;

/** On one line, without terminal control: such characters are shown as `\n`, `\x1b`, `\u202e`. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (found) => {
    if (found === "\n") return "\\n";
    const digits = (found.codePointAt(0) ?? 0).toString(16);
    return digits.length <= 2 ? `\\x${digits.padStart(2, "0")}` : `\\u${digits.padStart(4, "0")}`;
  });
}
