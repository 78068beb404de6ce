// @ts-check
/**
 * A recorded terminal session (asciicast version 2) as an animated SVG.
 *
 * The recording is replayed on a small screen: text, colours, cursor and line movements of ANSI are all it knows. Each
 * screen that differs from the one before is a frame; a line that several frames have is in the file once. Long pauses
 * are shortened. A reader who wants no motion sees the last frame.
 */
import { escapeText, n, svg } from "./theme.mjs";

const CELL_WIDTH = 7.8;
const LINE_HEIGHT = 18;
const MARGIN = 16;
const BAR_HEIGHT = 30;
const MAX_PAUSE_MS = 1500;
const MIN_FRAME_MS = 60;
const LAST_FRAME_MS = 5000;

/** SGR numbers as classes; what is not here is left out. */
const COLOURS = /** @type {Record<number, string>} */ ({
  31: "bad",
  32: "good",
  33: "warn",
  34: "accent",
  36: "accent",
  90: "soft",
});

/** @typedef {{ text: string, look: string }} Cell */

class Screen {
  /** @param {number} columns @param {number} rows */
  constructor(columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this.row = 0;
    this.column = 0;
    this.colour = "";
    this.isBold = false;
    this.isDim = false;
    this.isReverse = false;
    /** @type {Cell[][]} */
    this.lines = Array.from({ length: rows }, () => []);
  }

  /** @param {string} text */
  write(text) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are what a terminal is sent
    for (const [token] of text.matchAll(/\x1b\[[?]?[\d;]*[A-Za-z]|\x1b[=>78]|\x1b\][^\x07]*\x07|[\s\S]/gu))
      this.#take(token);
  }

  /** @param {string} token */
  #take(token) {
    if (token === "\r") this.column = 0;
    else if (token === "\n") this.#newLine();
    else if (token.startsWith("\x1b[") && !token.startsWith("\x1b[?")) this.#control(token);
    else if (!token.startsWith("\x1b") && token >= " ") this.#put(token);
  }

  /** @param {string} token */
  #control(token) {
    const numbers = token.slice(2, -1).split(";").map(Number);
    const [first = 0, second = 0] = numbers;
    const line = this.lines[this.row] ?? [];
    switch (token.at(-1)) {
      case "m":
        for (const code of numbers) this.#style(code);
        return;
      case "H":
        this.row = Math.min(this.rows, Math.max(1, first)) - 1;
        this.column = Math.max(1, second) - 1;
        return;
      case "J":
        if (first === 2) this.lines = this.lines.map(() => []);
        else {
          line.length = Math.min(line.length, this.column);
          for (let row = this.row + 1; row < this.rows; row += 1) this.lines[row] = [];
        }
        return;
      case "K":
        if (first === 2) line.length = 0;
        else line.length = Math.min(line.length, this.column);
        return;
      case "G":
        this.column = Math.max(1, first) - 1;
        return;
      case "A":
        this.row = Math.max(0, this.row - Math.max(1, first));
        return;
      case "B":
        this.row = Math.min(this.rows - 1, this.row + Math.max(1, first));
        return;
      case "C":
        this.column += Math.max(1, first);
        return;
    }
  }

  /** @param {number} code */
  #style(code) {
    if (code === 0) [this.colour, this.isBold, this.isDim, this.isReverse] = ["", false, false, false];
    else if (code === 1) this.isBold = true;
    else if (code === 2) this.isDim = true;
    else if (code === 7) this.isReverse = true;
    else if (code === 22) [this.isBold, this.isDim] = [false, false];
    else if (code === 39) this.colour = "";
    else this.colour = COLOURS[code] ?? this.colour;
  }

  #newLine() {
    this.row += 1;
    if (this.row < this.rows) return;
    this.row = this.rows - 1;
    this.lines.shift();
    this.lines.push([]);
  }

  /** @param {string} text */
  #put(text) {
    if (this.column >= this.columns) {
      this.column = 0;
      this.#newLine();
    }
    const line = this.lines[this.row] ?? [];
    while (line.length < this.column) line.push({ text: " ", look: "" });
    const colour = this.colour || (this.isDim ? "soft" : "");
    const look = [colour && `f-${colour}`, this.isBold && "b", this.isReverse && "r"]
      .filter(Boolean)
      .join(" ");
    line[this.column] = { text, look };
    this.column += 1;
  }

  /** The lines as SVG, each at the origin. */
  draw() {
    return this.lines.map(drawLine);
  }
}

/** Runs of one look, each exactly as wide as its cells, whatever font the reader has. @param {readonly Cell[]} cells */
function drawLine(cells) {
  let out = "";
  for (let start = 0; start < cells.length; ) {
    const look = cells[start]?.look ?? "";
    let end = start;
    while (end < cells.length && cells[end]?.look === look) end += 1;
    const text = cells
      .slice(start, end)
      .map((cell) => cell.text)
      .join("");
    if (look.endsWith("r"))
      out +=
        `<rect class="f-ink" x="${n(start * CELL_WIDTH - 2)}" y="-13" ` +
        `width="${n((end - start) * CELL_WIDTH + 4)}" height="${LINE_HEIGHT}"/>`;
    for (const word of text.matchAll(/\S+(?: \S+)*/g)) {
      const length = [...word[0]].length;
      const at = start + [...text.slice(0, word.index)].length;
      const classes = look === "" ? "" : ` class="${look}"`;
      const place = `x="${n(at * CELL_WIDTH)}" textLength="${n(length * CELL_WIDTH)}"`;
      out += `<text ${place} lengthAdjust="spacingAndGlyphs"${classes}>${escapeText(word[0])}</text>`;
    }
    start = end;
  }
  return out;
}

/** @typedef {{ atMs: number, lines: string[] }} Frame */

/**
 * @param {string} cast
 * @returns {{ columns: number, rows: number, title: string, frames: Frame[] }}
 */
function replay(cast) {
  const [head = "{}", ...events] = cast.trim().split("\n");
  const { width, height, title } = JSON.parse(head);
  const screen = new Screen(width, height);
  /** @type {Frame[]} */
  const frames = [];
  let atMs = 0;
  let beforeMs = 0;
  for (const event of events) {
    const [seconds, kind, text] = /** @type {[number, string, string]} */ (JSON.parse(event));
    if (kind !== "o") continue;
    atMs += Math.min(MAX_PAUSE_MS, seconds * 1000 - beforeMs);
    beforeMs = seconds * 1000;
    screen.write(text);
    const lines = screen.draw();
    const last = frames.at(-1);
    if (last !== undefined && last.lines.join("\n") === lines.join("\n")) continue;
    if (last !== undefined && atMs - last.atMs < MIN_FRAME_MS) last.lines = lines;
    else frames.push({ atMs, lines });
  }
  return { columns: width, rows: height, title, frames };
}

/** @param {string} cast */
export function terminal(cast) {
  const { columns, rows, title, frames } = replay(cast);
  const width = Math.ceil(columns * CELL_WIDTH) + 2 * MARGIN;
  const height = BAR_HEIGHT + rows * LINE_HEIGHT + MARGIN;
  const startMs = frames[0]?.atMs ?? 0;
  const totalMs = (frames.at(-1)?.atMs ?? 0) - startMs + LAST_FRAME_MS;
  const percent = (/** @type {number} */ ms) => n(((ms - startMs) / totalMs) * 100);

  /** @type {Map<string, string>} */
  const ids = new Map();
  const style = [];
  const drawn = frames.map(({ atMs, lines }, index) => {
    const next = frames[index + 1];
    const end = next === undefined ? "" : `${percent(next.atMs)}%{visibility:hidden}`;
    const begin = index === 0 ? "" : "0%{visibility:hidden}";
    style.push(
      `@keyframes k${index}{${begin}${percent(atMs)}%{visibility:visible}${end}}#f${index}{animation-name:k${index}}`,
    );
    const uses = lines.flatMap((line, row) => {
      if (line === "") return [];
      if (!ids.has(line)) ids.set(line, `l${ids.size}`);
      return [`<use href="#${ids.get(line)}" y="${row * LINE_HEIGHT}"/>`];
    });
    return `<g class="f${next === undefined ? " last" : ""}" id="f${index}">${uses.join("")}</g>`;
  });
  const definitions = [...ids].map(([line, id]) => `<g id="${id}">${line}</g>`);
  return svg({
    width,
    height,
    title,
    style: `
defs text,g text{font-family:ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace;font-size:13px;white-space:pre}
.b{font-weight:700}text.f-bad{fill:var(--bad)}text.f-good{fill:var(--good)}text.f-warn{fill:var(--warn)}text.f-accent{fill:var(--accent)}text.f-soft{fill:var(--soft)}text.r{fill:var(--panel)}
.f{animation:${n(totalMs / 1000)}s step-end infinite;visibility:hidden}
${style.join("\n")}
@media (prefers-reduced-motion:reduce){.f{animation:none}.last{visibility:visible}}`,
    body: `<rect class="f-panel s-line" x=".5" y=".5" width="${width - 1}" height="${height - 1}" rx="8"/>
<path class="s-line" d="M0 ${BAR_HEIGHT - 6}.5H${width}"/>
<text class="f-soft" x="${width / 2}" y="17" text-anchor="middle" style="font-size:12px;fill:var(--soft)">${escapeText(title)}</text>
<defs>${definitions.join("\n")}</defs>
<g transform="translate(${MARGIN} ${BAR_HEIGHT + 12})">
${drawn.join("\n")}
</g>`,
  });
}
