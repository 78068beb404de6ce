/**
 * The report's two tables: stalls by kind, with a strip of every single one, and the list of faults.
 *
 * Called by report.ts. Both are complete without any script. The strips are SVG with positions in per cent, so that
 * they take the available width; their axis is the latency chart's. Pure; every text of the run is escaped.
 */

import type { ChaosRun, Fault, KindSummary } from "../run.ts";
import { escapeHtml, formatClock, formatCount, formatMs, formatMsCell } from "./format.ts";
import { shapeInText } from "./kinds.ts";
import { isBad, kindsOf, pointsBeforeFaults, scaleOf } from "./script.ts";

interface Scale {
  readonly lowMs: number;
  readonly highMs: number;
}

/** The table of stalls; "" for a run without faults. */
export function kindsTable(run: ChaosRun): string {
  const scale = scaleOf(run);
  const kinds = kindsOf(run);
  if (run.faults.length === 0) return "";
  const rows = kinds.map((look) => {
    const faults = run.faults.filter((fault) => fault.kind === look.kind);
    const summary = run.kinds.find((each) => each.kind === look.kind);
    const { kind, deed } = look;
    const name = `<button class="kind ${kind}" data-kind="${kind}" aria-pressed="false" title="${deed}">\
${shapeInText(kind)} ${kind}</button>`;
    return kindRow(name, summary, faultStrip(faults, summary, scale));
  });
  const none = run.kinds.find((each) => each.kind === "none");
  if (none !== undefined && none.count > 0) {
    rows.unshift(kindRow("<i>no fault</i>", none, usualStrip(run, none, scale)));
  }
  return `<table class="kinds"><thead><tr><th>kind</th><th>faults</th><th>take\u00adovers</th><th>recon\u00adnects</th>
<th>median, ms</th><th>p99, ms</th><th>longest, ms</th><th class="strip">${axisStrip(scale)}</th></tr></thead>
<tbody>${rows.join("\n")}</tbody></table>`;
}

function kindRow(name: string, summary: KindSummary | undefined, strip: string): string {
  const isFault = summary?.kind !== "none";
  const isEmpty = summary === undefined || summary.count === 0;
  const counts = [summary?.count, summary?.takeovers, summary?.reconnects].map((count) =>
    isFault ? countCell(count ?? 0) : "<td></td>",
  );
  const times = [summary?.p50Ms, summary?.p99Ms, summary?.longestMs].map(
    (ms) => `<td>${isEmpty ? "–" : formatMsCell(ms ?? Number.NaN)}</td>`,
  );
  return `<tr><td>${name}</td>${counts.join("")}${times.join("")}<td class="strip">${strip}</td></tr>`;
}

function countCell(count: number): string {
  return count === 0 ? '<td class="nothing">0</td>' : `<td>${formatCount(count)}</td>`;
}

/**
 * Each fault's longest read; spread over the strip's height by a fixed rule, so that equal ones do not hide one
 * another.
 */
function faultStrip(faults: readonly Fault[], summary: KindSummary | undefined, scale: Scale): string {
  const size = faults.length > 40 ? "s" : "k";
  const marks = faults.map((fault, index) => {
    if (fault.longestReadMs <= 0) return "";
    const y = 50 + 60 * (((index * 0.618_034) % 1) - 0.5);
    const classes = [fault.outcome?.level === "takeover" ? "" : "open", isBad(fault) ? "bad" : ""]
      .join(" ")
      .trim();
    const use = `<use href="#${size}-${fault.kind}" x="${place(fault.longestReadMs, scale)}" y="${y.toFixed(0)}%"`;
    return `${use}${classes === "" ? "" : ` class="${classes}"`}/>`;
  });
  const kind = summary?.kind ?? "";
  return `<svg class="${kind}" aria-hidden="true">${gridLines(scale)}${marks.join("")}${ticks(summary, scale)}</svg>`;
}

/** The slowest read of each span before the first fault, as thin lines. */
function usualStrip(run: ChaosRun, summary: KindSummary, scale: Scale): string {
  const lines = pointsBeforeFaults(run).map((point) => {
    const x = place(point.maxMs, scale);
    return `<line class="usual" x1="${x}" x2="${x}" y1="30%" y2="70%"/>`;
  });
  return `<svg aria-hidden="true">${gridLines(scale)}${lines.join("")}${ticks(summary, scale)}</svg>`;
}

/** The median as a thick stroke, the 99th percentile as a thin one. */
function ticks(summary: KindSummary | undefined, scale: Scale): string {
  if (summary === undefined || summary.count === 0) return "";
  const tick = (name: string, ms: number) => {
    const x = place(ms, scale);
    return ms > 0 ? `<line class="${name}" x1="${x}" x2="${x}" y1="2%" y2="98%"/>` : "";
  };
  return tick("middle", summary.p50Ms) + tick("tail", summary.p99Ms);
}

function axisStrip(scale: Scale): string {
  const labels = decades(scale).map((ms) => {
    const share = shareOf(ms, scale);
    const anchor = share < 0.04 ? "start" : share > 0.96 ? "end" : "middle";
    const text = ms >= 1000 ? `${ms / 1000} s` : `${ms} ms`;
    return `<text x="${place(ms, scale)}" y="75%" text-anchor="${anchor}">${text}</text>`;
  });
  return `<svg aria-hidden="true">${labels.join("")}</svg>`;
}

function gridLines(scale: Scale): string {
  return decades(scale)
    .map((ms) => `<line x1="${place(ms, scale)}" x2="${place(ms, scale)}" y1="0" y2="100%"/>`)
    .join("");
}

function decades({ lowMs, highMs }: Scale): number[] {
  const found: number[] = [];
  for (let power = Math.ceil(Math.log10(lowMs) - 1e-9); 10 ** power <= highMs * 1.000_001; power += 1) {
    found.push(Number((10 ** power).toPrecision(1)));
  }
  return found;
}

function shareOf(ms: number, { lowMs, highMs }: Scale): number {
  const share = Math.log(ms / lowMs) / Math.log(highMs / lowMs);
  return Math.min(1, Math.max(0, share));
}

function place(ms: number, scale: Scale): string {
  return `${(100 * shareOf(ms, scale)).toFixed(2)}%`;
}

/** The list of all faults, by time. */
export function faultTable(run: ChaosRun): string {
  const rows = run.faults.map((fault, index) => faultRow(fault, index));
  return `<table class="faults"><thead><tr><th>at</th><th>fault</th><th>answer</th><th class="number">stall</th>
<th class="number">longest read</th><th>cause</th></tr></thead><tbody>
${rows.join("\n")}</tbody></table>`;
}

function faultRow(fault: Fault, index: number): string {
  const { kind, outcome } = fault;
  const level = outcome === null ? "" : outcome.level === "none" ? "none needed" : outcome.level;
  const answer =
    outcome === null
      ? "run ended"
      : outcome.result === "recovered"
        ? level
        : `${outcome.level} ${outcome.result}`;
  const stall = outcome === null || outcome.level === "none" ? "–" : formatMs(outcome.stallMs);
  const shape = shapeInText(kind, outcome?.level === "takeover" ? "" : "open");
  return `<tr data-row="${kind}"><td><a href="#figure" data-fault="${index}">${formatClock(fault.atMs, 1)}</a></td>\
<td>${shape} ${escapeHtml(fault.label)}</td><td${isBad(fault) ? ' class="bad"' : ""}>${answer}</td>\
<td class="number" data-name="stall">${stall}</td>\
<td class="number" data-name="longest read">${formatMs(fault.longestReadMs)}</td>\
<td class="cause">${escapeHtml(outcome?.cause ?? "")}</td></tr>`;
}
