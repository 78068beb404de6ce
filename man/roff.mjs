// @ts-check
/**
 * Formats text, paragraphs and lists for man(7). Used by the generators of the two pages.
 *
 * Characters outside of ASCII become escapes, so that a page does not depend on the encoding that man(1) assumes.
 */

/**
 * Plain text as roff.
 * @param {string} text
 */
export function roff(text) {
  const plain = text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/[^\t\n\x20-\x7e]/gu, (character) => {
      const code = character.codePointAt(0) ?? 0;
      return `\\[u${code.toString(16).toUpperCase().padStart(4, "0")}]`;
    });
  return plain.replace(/^([.'])/gm, "\\&$1");
}

/** @param {string} text */
export const bold = (text) => `\\fB${roff(text)}\\fR`;
/** @param {string} text */
export const italic = (text) => `\\fI${roff(text)}\\fR`;

/**
 * An entry of a list: what, and below it, indented, what it means.
 * @param {string} head already in roff
 * @param {string} text
 */
export const entry = (head, text) => `.TP\n${head}\n${roff(text)}`;

/** @param {string} title */
export const section = (title) => `.SH ${title.toUpperCase()}`;

/**
 * Text as programs print it: paragraphs, headings that end with a colon, and indented lines, which stay as they are.
 * @param {string} text
 */
export function prose(text) {
  const out = [];
  for (const block of text.trim().split(/\n{2,}/)) {
    /** @type {string[]} */
    let flowing = [];
    /** @type {string[]} */
    let fixed = [];
    const flush = () => {
      if (flowing.length > 0) out.push(".PP", ...flowing.map(roff));
      if (fixed.length > 0) out.push(".PP", ".RS 4", ".nf", ...fixed.map(roff), ".fi", ".RE");
      flowing = [];
      fixed = [];
    };
    for (const line of block.split("\n")) {
      const isFixed = line.startsWith("  ");
      if (isFixed ? flowing.length > 0 : fixed.length > 0) flush();
      if (isFixed) fixed.push(line.trimStart());
      else flowing.push(line);
    }
    flush();
  }
  return out.join("\n");
}

/**
 * A whole page.
 * @param {{ name: string, summary: string, version: string, body: readonly string[] }} page
 */
export function page({ name, summary, version, body }) {
  const lines = [
    `.TH "${name.toUpperCase()}" 8 "" "erofs\\-nbd ${version}" "System Administration"`,
    // No words cut, no lines stretched: options and paths are to be found and copied.
    ".nh",
    ".ad l",
    section("Name"),
    `${roff(name)} \\- ${roff(summary)}`,
    ...body,
  ];
  return `${lines.join("\n")}\n`;
}
