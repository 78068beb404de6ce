// @ts-check
/**
 * What all pictures share: colours for light and dark, fonts, and the frame of an SVG file.
 *
 * A picture is one file for both: its style sheet asks for the reader's colour scheme. It loads nothing.
 */

/** Names of colours: [light, dark]. */
const COLOURS = {
  paper: ["#ffffff", "#0d1117"],
  panel: ["#f3f5f8", "#161b22"],
  card: ["#ffffff", "#1c2330"],
  line: ["#b6bfca", "#4a5563"],
  ink: ["#1f2430", "#e6e9ef"],
  soft: ["#566070", "#9aa5b4"],
  accent: ["#0b62c4", "#63a8ff"],
  good: ["#15803d", "#4ac26b"],
  warn: ["#a15c00", "#e0a63a"],
  bad: ["#c62828", "#ff7b72"],
  accentSoft: ["#dcebfd", "#13304f"],
  goodSoft: ["#dcf3e3", "#12351f"],
  warnSoft: ["#fbeccc", "#3d2e0c"],
};

const SANS = "ui-sans-serif, system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";
const MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace";

/** @param {0 | 1} scheme */
function variables(scheme) {
  return Object.entries(COLOURS)
    .map(([name, pair]) => `--${name}:${pair[scheme]}`)
    .join(";");
}

/** @param {string} text */
export function escapeText(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}

/**
 * A whole SVG file.
 * @param {{ width: number, height: number, title: string, style?: string, body: string }} picture
 */
export function svg({ width, height, title, style = "", body }) {
  const classes = Object.keys(COLOURS)
    .map((name) => `.f-${name}{fill:var(--${name})}.s-${name}{stroke:var(--${name})}`)
    .join("");
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
<title>${escapeText(title)}</title>
<style>
:root{${variables(0)}}
@media (prefers-color-scheme:dark){:root{${variables(1)}}}
text{font-family:${SANS};fill:var(--ink)}
.mono{font-family:${MONO}}
${classes}${style}
</style>
${body}
</svg>
`;
}

/** A number for an attribute: short, the same on every machine. @param {number} value */
export function n(value) {
  return String(Math.round(value * 100) / 100);
}
