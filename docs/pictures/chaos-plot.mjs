// @ts-check
/**
 * The main plot of a chaos report, as an SVG: latency of the reads over time, and every fault in the lane of its kind.
 *
 * The report draws it on a canvas in the browser (src/chaos/report/page-plots.ts); this is a still of the same data,
 * which is what the page holds in `<script id="run">`.
 */
import { escapeText, n, svg } from "./theme.mjs";

const WIDTH = 860;
const LEFT = 76;
const RIGHT = 16;
const TOP = 64;
const LANE = 20;
const PLOT = 250;
const COLOURS = ["accent", "warn", "good", "soft", "bad", "ink"];

/**
 * @typedef {{ kind: string, atMs: number, stallMs?: number | null }} Fault
 * @typedef {{ durationMs: number, lowMs: number, highMs: number, at: number[],
 *   p50: (number | null)[], p99: (number | null)[], max: (number | null)[], faults: Fault[],
 *   kinds: { kind: string, shape: string }[] }} PageData
 * @typedef {{ date: string, machine: string, command: string, data: PageData }} ChaosRun
 */

/** @param {number} x @param {number} y @param {string} text @param {string} [anchor] @param {string} [look] */
function label(x, y, text, anchor = "start", look = "c") {
  return `<text class="${look}" x="${n(x)}" y="${n(y)}" text-anchor="${anchor}">${escapeText(text)}</text>`;
}

/** @param {number} ms */
function formatMs(ms) {
  return ms < 1000 ? `${n(ms)} ms` : `${n(ms / 1000)} s`;
}

/** @param {ChaosRun} run */
export function chaosPlot({ date, machine, command, data }) {
  const { durationMs, lowMs, highMs, kinds } = data;
  const plotTop = TOP + kinds.length * LANE + 14;
  const bottom = plotTop + PLOT;
  const height = bottom + 72;
  const x = (/** @type {number} */ ms) => LEFT + (ms / durationMs) * (WIDTH - LEFT - RIGHT);
  const y = (/** @type {number} */ ms) =>
    bottom - (Math.log(Math.min(highMs, Math.max(lowMs, ms)) / lowMs) / Math.log(highMs / lowMs)) * PLOT;

  const parts = [
    `<rect class="f-paper" width="${WIDTH}" height="${height}" rx="10"/>`,
    label(20, 30, "Latency of reads while faults are injected", "start", "h"),
    `<rect class="f-accentSoft" x="20" y="39" width="14" height="11"/>`,
    label(40, 49, "slowest read"),
    `<rect class="f-accent" opacity=".45" x="130" y="39" width="14" height="11"/>`,
    label(150, 49, "99 of 100 reads"),
    `<path class="s-ink" d="M260 45H274"/>`,
    label(280, 49, "median"),
  ];
  for (let decade = 10 ** Math.ceil(Math.log10(lowMs)); decade <= highMs; decade *= 10)
    parts.push(
      `<path class="s-line thin" d="M${LEFT} ${n(y(decade))}H${WIDTH - RIGHT}"/>`,
      label(LEFT - 8, y(decade) + 4, formatMs(decade), "end"),
    );
  for (const [lane, { kind }] of kinds.entries()) {
    const at = TOP + lane * LANE + LANE / 2;
    parts.push(
      `<path class="s-line thin" d="M${LEFT} ${at}H${WIDTH - RIGHT}"/>`,
      label(LEFT - 8, at + 4, kind, "end"),
    );
  }
  parts.push(
    `<path class="f-accentSoft" d="${area(data.at, data.max, x, y, bottom, durationMs)}"/>`,
    `<path class="f-accent" opacity=".45" d="${area(data.at, data.p99, x, y, bottom, durationMs)}"/>`,
    `<path class="s-ink" d="${steps(data.at, data.p50, x, y, durationMs)}"/>`,
  );
  for (const { kind, atMs } of data.faults) {
    const lane = kinds.findIndex((one) => one.kind === kind);
    const at = TOP + lane * LANE + LANE / 2;
    const colour = COLOURS[lane % COLOURS.length];
    parts.push(
      `<path class="s-${colour} stem" d="M${n(x(atMs))} ${at}V${bottom}"/>`,
      `<path class="f-${colour}" transform="translate(${n(x(atMs))} ${at})" d="${kinds[lane]?.shape ?? ""}"/>`,
    );
  }
  const step = niceStep(durationMs / 8);
  for (let ms = 0; ms <= durationMs; ms += step)
    parts.push(label(x(ms), bottom + 18, `${n(ms / 1000)} s`, "middle"));
  parts.push(label(20, height - 28, `${date}, ${machine}`), label(20, height - 12, command));
  return svg({
    width: WIDTH,
    height,
    title: "Latency over time, with every fault",
    style: `.h{font-size:15px;font-weight:600}.c{font-size:11.5px;fill:var(--soft)}path{fill:none;stroke-width:1.2}
${["accentSoft", ...COLOURS].map((colour) => `path.f-${colour}{fill:var(--${colour})}`).join("")}
.thin{stroke-width:.6}.stem{stroke-width:1;stroke-dasharray:2 3;opacity:.7}`,
    body: parts.join("\n"),
  });
}

/**
 * @param {number[]} at @param {(number | null)[]} values
 * @param {(ms: number) => number} x @param {(ms: number) => number} y
 * @param {number} endMs
 */
function steps(at, values, x, y, endMs) {
  return values
    .map((value, index) => {
      if (value === null) return "";
      const to = index === 0 || values[index - 1] === null ? "M" : "L";
      return `${to}${n(x(at[index] ?? 0))} ${n(y(value))}H${n(x(at[index + 1] ?? endMs))}`;
    })
    .join("");
}

/**
 * @param {number[]} at @param {(number | null)[]} values
 * @param {(ms: number) => number} x @param {(ms: number) => number} y
 * @param {number} bottom @param {number} endMs
 */
function area(at, values, x, y, bottom, endMs) {
  return values
    .map((value, index) =>
      value === null
        ? ""
        : `M${n(x(at[index] ?? 0))} ${bottom}V${n(y(value))}H${n(x(at[index + 1] ?? endMs) + 0.2)}V${bottom}z`,
    )
    .join("");
}

/** @param {number} ms */
function niceStep(ms) {
  const decade = 10 ** Math.floor(Math.log10(ms));
  return ([1, 2, 5, 10].find((factor) => factor * decade >= ms) ?? 10) * decade;
}
