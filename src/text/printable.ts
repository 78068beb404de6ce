/**
 * Text from elsewhere made fit for one line of a terminal or a page: names of files, what modules, workers and programs say.
 *
 * Used wherever the command line prints, and by the chaos report. A leaf, and loaded by every command: it imports nothing.
 */

/** Control characters (C1 too: U+009B begins what ESC [ begins), what turns the direction of writing, and Unicode's line ends. */
const UNPRINTABLE = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu;

/** In one line, with nothing that a terminal obeys: such characters show as «\n», «\x1b», «\u202e». */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (found) => {
    if (found === "\n") return "\\n";
    const digits = (found.codePointAt(0) ?? 0).toString(16);
    return digits.length <= 2 ? `\\x${digits.padStart(2, "0")}` : `\\u${digits.padStart(4, "0")}`;
  });
}
