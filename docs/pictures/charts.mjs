// @ts-check
/** The plotted figures: bars of a comparison, a histogram of stalls. Their data says when and how it was measured. */
import { escapeText, n, svg } from "./theme.mjs";

const WIDTH = 720;
const LEFT = 150;
const RIGHT = 60;
const STYLE = `
.h{font-size:15px;font-weight:600}.t{font-size:12.5px}.c{font-size:11.5px;fill:var(--soft)}.v{font-size:12px;font-weight:600}
line{stroke-width:1}.dash{stroke-dasharray:4 3}`;

/** @param {number} x @param {number} y @param {string} text @param {string} look @param {string} [anchor] */
function label(x, y, text, look, anchor = "start") {
  return `<text class="${look}" x="${n(x)}" y="${n(y)}" text-anchor="${anchor}">${escapeText(text)}</text>`;
}

/**
 * @typedef {{ date: string, machine: string, command: string, reference: string,
 *   rows: { load: string, rate: number, timePerRequest: number }[] }} Comparison
 */

/** Two bars for each load, as ratios to the reference, which is a line at 1. @param {Comparison} data */
export function comparison(data) {
  const rowHeight = 62;
  const top = 84;
  const height = top + data.rows.length * rowHeight + 66;
  const most = Math.max(1, ...data.rows.flatMap(({ rate, timePerRequest }) => [rate, timePerRequest]));
  const scale = (WIDTH - LEFT - RIGHT) / most;
  const parts = [
    `<rect class="f-paper" width="${WIDTH}" height="${height}" rx="10"/>`,
    label(20, 30, `erofs-nbd serve, as a ratio to ${data.reference}`, "h"),
    `<rect class="f-accent" x="20" y="43" width="12" height="12" rx="2"/>`,
    label(38, 54, "reads per second: longer is better", "c"),
    `<rect class="f-good" x="260" y="43" width="12" height="12" rx="2"/>`,
    label(278, 54, "processor time per read: shorter is better", "c"),
  ];
  for (const [index, { load, rate, timePerRequest }] of data.rows.entries()) {
    const y = top + index * rowHeight;
    parts.push(
      label(LEFT - 12, y + 25, load, "t", "end"),
      `<rect class="f-accent" x="${LEFT}" y="${y}" width="${n(rate * scale)}" height="18" rx="2"/>`,
      label(LEFT + rate * scale + 7, y + 13.5, rate.toFixed(2), "v"),
      `<rect class="f-good" x="${LEFT}" y="${y + 22}" width="${n(timePerRequest * scale)}" height="18" rx="2"/>`,
      label(LEFT + timePerRequest * scale + 7, y + 35.5, timePerRequest.toFixed(2), "v"),
    );
  }
  const one = n(LEFT + scale);
  const bottom = top + data.rows.length * rowHeight - 14;
  parts.push(
    `<line class="s-ink dash" x1="${one}" x2="${one}" y1="${top - 8}" y2="${bottom}"/>`,
    label(LEFT + scale, bottom + 15, `${data.reference} = 1`, "c", "middle"),
    label(20, height - 28, `${data.date}, ${data.machine}`, "c"),
    label(20, height - 12, data.command, "c"),
  );
  return svg({
    width: WIDTH,
    height,
    title: "Reads served, compared with another server",
    style: STYLE,
    body: parts.join("\n"),
  });
}

/**
 * @typedef {{ date: string, machine: string, command: string, kinds: { kind: string, stallsMs: number[] }[] }} Stalls
 */

/** Doublings of a millisecond. @param {number} ms */
const binOf = (ms) => Math.max(0, Math.floor(Math.log2(Math.max(1, ms))));
/** @param {number} bin */
const nameOf = (bin) => (bin < 10 ? `${2 ** bin} ms` : `${2 ** (bin - 10)} s`);

/** For each kind of fault how many stalls were how long. @param {Stalls} data */
export function stalls(data) {
  const all = data.kinds.flatMap(({ stallsMs }) => stallsMs.map(binOf));
  const first = Math.min(...all);
  const last = Math.max(...all);
  const bins = last - first + 1;
  const rowHeight = 120;
  const top = 64;
  const left = 120;
  const plot = 70;
  const step = (WIDTH - left - 30) / bins;
  const height = top + data.kinds.length * rowHeight + 56;
  const most = Math.max(
    ...data.kinds.map(({ stallsMs }) =>
      Math.max(
        ...Array.from({ length: bins }, (_, at) => stallsMs.filter((ms) => binOf(ms) === first + at).length),
      ),
    ),
  );
  const parts = [
    `<rect class="f-paper" width="${WIDTH}" height="${height}" rx="10"/>`,
    label(20, 30, "For how long reads stood still, by kind of fault", "h"),
  ];
  for (const [index, { kind, stallsMs }] of data.kinds.entries()) {
    const base = top + index * rowHeight + plot + 20;
    const sorted = [...stallsMs].sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
    parts.push(
      label(left - 12, base - 22, kind, "t", "end"),
      label(left - 12, base - 6, `${stallsMs.length} faults`, "c", "end"),
      label(
        WIDTH - 30,
        base - plot - 6,
        `median ${formatMs(median)}, longest ${formatMs(sorted.at(-1) ?? 0)}`,
        "c",
        "end",
      ),
      `<line class="s-line" x1="${left}" x2="${WIDTH - 30}" y1="${base}" y2="${base}"/>`,
    );
    for (let at = 0; at < bins; at += 1) {
      const count = stallsMs.filter((ms) => binOf(ms) === first + at).length;
      if (count === 0) continue;
      const tall = (count / most) * (plot - 14);
      parts.push(
        `<rect class="f-${index % 2 === 0 ? "accent" : "good"}" x="${n(left + at * step + 2)}" ` +
          `y="${n(base - tall)}" width="${n(step - 4)}" height="${n(tall)}" rx="2"/>`,
        label(left + (at + 0.5) * step, base - tall - 4, `${count}`, "c", "middle"),
      );
    }
    for (let at = 0; at <= bins; at += 1)
      parts.push(label(left + at * step, base + 16, nameOf(first + at), "c", "middle"));
  }
  parts.push(
    label(20, height - 28, `${data.date}, ${data.machine}`, "c"),
    label(20, height - 12, data.command, "c"),
  );
  return svg({ width: WIDTH, height, title: "Histogram of stalls", style: STYLE, body: parts.join("\n") });
}

/** @param {number} ms */
function formatMs(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
