/**
 * Text of table cells: width on a terminal, truncation, short numbers, colours.
 *
 * Pure. Used by frame.ts and layout.ts. Text from outside (paths, messages) must have passed `printable` before.
 */

/** SGR codes of the styles that `paint` applies. */
const CODES = { bold: 1, dim: 2, inverse: 7, red: 31, green: 32, yellow: 33, cyan: 36 } as const;
export type Style = keyof typeof CODES;

/** Adds styles; returns the text unchanged without colours. */
export function paint(text: string, isColoured: boolean, ...styles: readonly Style[]): string {
  if (!isColoured || styles.length === 0 || text === "") return text;
  return `\u001b[${styles.map((style) => CODES[style]).join(";")}m${text}\u001b[0m`;
}

/** Blocks of wide characters: CJK, Hangul, full-width forms, emoji. Sufficient for file names. */
const FIRST_WIDE = 0x1100;
const WIDE_BLOCKS: ReadonlyArray<readonly [first: number, last: number]> = [
  [FIRST_WIDE, 0x115f],
  [0x2e80, 0xa4cf],
  [0xa960, 0xa97f],
  [0xac00, 0xd7a3],
  [0xf900, 0xfaff],
  [0xfe30, 0xfe6f],
  [0xff00, 0xff60],
  [0xffe0, 0xffe6],
  [0x1f300, 0x1f64f],
  [0x1f680, 0x1f6ff],
  [0x1f900, 0x1faff],
  [0x20000, 0x3fffd],
];
const ZERO = /[\p{M}\p{Cf}]/u;

function widthOf(character: string): number {
  if (ZERO.test(character)) return 0;
  const code = character.codePointAt(0) ?? 0;
  return code >= FIRST_WIDE && WIDE_BLOCKS.some(([first, last]) => first <= code && code <= last) ? 2 : 1;
}

/** The width of a text in terminal columns. */
export function width(text: string): number {
  let columns = 0;
  for (const character of text) columns += widthOf(character);
  return columns;
}

/** The beginning of a text, at most `columns` wide. */
function firstColumns(text: string, columns: number): string {
  let taken = "";
  let left = columns;
  for (const character of text) {
    left -= widthOf(character);
    if (left < 0) break;
    taken += character;
  }
  return taken;
}

function lastColumns(text: string, columns: number): string {
  let left = columns;
  const taken: string[] = [];
  for (const character of [...text].reverse()) {
    left -= widthOf(character);
    if (left < 0) break;
    taken.unshift(character);
  }
  return taken.join("");
}

/**
 * Truncates a text to `columns` with an ellipsis at its end, at its start, or in its middle, where similar names differ
 * least.
 */
export function shorten(text: string, columns: number, cut: "end" | "start" | "middle"): string {
  if (width(text) <= columns) return text;
  if (columns <= 1) return columns === 1 ? "…" : "";
  const room = columns - 1;
  if (cut === "end") return `${firstColumns(text, room)}…`;
  if (cut === "start") return `…${lastColumns(text, room)}`;
  const front = Math.floor(room / 3);
  return `${firstColumns(text, front)}…${lastColumns(text, room - front)}`;
}

export function pad(text: string, columns: number, side: "left" | "right"): string {
  const blank = " ".repeat(Math.max(0, columns - width(text)));
  return side === "left" ? text + blank : blank + text;
}

/** "0", "7.5", "1234", "12.3k", "4.0M". */
export function count(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return value === 0 || value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

/** Milliseconds in at most five characters: "0.09", "1.7", "120", "12s". */
export function latency(milliseconds: number): string {
  if (milliseconds >= 10_000) return `${Math.round(milliseconds / 1000)}s`;
  if (milliseconds >= 10) return milliseconds.toFixed(0);
  return milliseconds.toFixed(milliseconds >= 1 ? 1 : 2);
}

/** "14ms", "1.2s", "75s". */
export function span(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)}ms`;
  return milliseconds < 10_000
    ? `${(milliseconds / 1000).toFixed(1)}s`
    : `${Math.round(milliseconds / 1000)}s`;
}

/** "12s", "3m", "5h", "9d". */
export function age(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  return seconds < 48 * 3600 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86_400)}d`;
}
