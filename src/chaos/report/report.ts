/**
 * The chaos report: one HTML page that says what was done to a device and how its reads fared.
 *
 * `erofs-nbd chaos --report FILE` calls `renderReport` and writes what it returns. The page loads nothing: style, data,
 * code and the plotting library are inside, and its content security policy forbids the rest. Without scripts the
 * tables still tell everything. Every text that comes from the run is escaped. Writes no file itself.
 */
import { createHash } from "node:crypto";
import { shellWord } from "../../text/shell-word.ts";
import type { ChaosRun, ReadFigures } from "../run.ts";
import {
  codeForScript,
  escapeHtml,
  formatBytes,
  formatCount,
  formatMs,
  formatMsCell,
  formatSpan,
  plural,
} from "./format.ts";
import { shapeDefinitions } from "./kinds.ts";
import { isBad, pageData, readPageScript, readPlotLibrary } from "./script.ts";
import { STYLE } from "./style.ts";
import { faultTable, kindsTable } from "./tables.ts";

/**
 * The whole page as text, to be written as UTF-8.
 *
 * @param pageScript the code of page/, by default as the build has made it
 * @throws ErofsNbdError ERR_INTERNAL if the plotting library is not installed
 */
export function renderReport(run: ChaosRun, pageScript: string = readPageScript()): string {
  const library = readPlotLibrary();
  const script = codeForScript(pageScript);
  const title = `${run.verdict === "passed" ? "Passed" : "Failed"}: chaos on ${run.device}`;
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy([library.code, script])}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="erofs-nbd ${escapeHtml(run.version)}">
<link rel="icon" href="data:,">
<title>${escapeHtml(title)}</title>
<style>${library.css}</style>
<style>${STYLE}</style>
</head>
<body>
${shapeDefinitions()}
${header(run)}
${problems(run)}
${charts(run)}
${stalls(run)}
${reads(run)}
${facts(run)}
${faults(run)}
<footer>Written by erofs-nbd ${escapeHtml(run.version)}. The charts are drawn by uPlot, which is inside this page; \
nothing is loaded from anywhere.</footer>
<script type="application/json" id="run">${pageData(run)}</script>
<script>${library.code}</script>
<script>${script}</script>
</body>
</html>
`;
}

/** Nothing may be loaded, and no script may run but the two that were put here. */
function policy(scripts: readonly string[]): string {
  const hashes = scripts.map((code) => `'sha256-${createHash("sha256").update(code).digest("base64")}'`);
  const script = `script-src ${hashes.join(" ")}`;
  return `default-src 'none'; ${script}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'`;
}

function header(run: ChaosRun): string {
  const started = new Date(run.startedAt);
  const day = Number.isNaN(started.getTime())
    ? run.startedAt
    : `${started.toISOString().slice(0, 16).replace("T", " ")} UTC`;
  return `<header>
<p>Chaos on ${escapeHtml(run.device)}, ${escapeHtml(day)}, ${formatSpan(run.durationMs)}</p>
<h1>${verdict(run)}</h1>
<p class="note">Linux ${escapeHtml(run.kernel)} · ${escapeHtml(baseName(run.image))}, ${formatBytes(run.imageBytes)} · \
${formatBytes(run.totals.bytes)} read and compared · seed ${run.seed}</p>
</header>`;
}

function verdict(run: ChaosRun): string {
  const { totals } = run;
  const done = plural(run.faults.length, "fault");
  const longest = `the longest read took <b>${formatMs(totals.longestMs)}</b>`;
  if (run.verdict === "passed") {
    const counted = run.faults.length > 0 ? ", every failover counted" : "";
    return `<b class="good">Passed.</b> ${done}, every byte right${counted}; ${longest}.`;
  }
  const lost = run.faults.filter(isBad).length;
  const wrong = [
    [totals.wrong, "wrong read", "wrong reads"],
    [totals.errors, "I/O error", "I/O errors"],
    [totals.uncounted, "uncounted failover", "uncounted failovers"],
    [lost, "fault not recovered", "faults not recovered"],
  ] as const;
  const found = wrong.filter(([count]) => count > 0).map(([count, one, many]) => plural(count, one, many));
  const what = found.length === 0 ? plural(run.problems.length, "problem") : found.join(", ");
  return `<b class="bad">Failed.</b> ${what} in ${done}; ${longest}.`;
}

function problems(run: ChaosRun): string {
  if (run.problems.length === 0) return "";
  const shown = run.problems.slice(0, 20).map((problem) => `<li>${escapeHtml(problem)}</li>`);
  const rest = run.problems.slice(20).map((problem) => `<li>${escapeHtml(problem)}</li>`);
  const more =
    rest.length === 0
      ? ""
      : `<details><summary>${formatCount(rest.length)} more</summary><ul>${rest.join("\n")}</ul></details>`;
  return `<section class="problems"><h2>What went wrong</h2><ul>${shown.join("\n")}</ul>${more}</section>`;
}

function charts(run: ChaosRun): string {
  const swatch = (path: string) =>
    `<svg class="swatch" viewBox="0 0 27 12" aria-hidden="true"><path d="M0 6H27" ${path}/></svg>`;
  const lines = [
    `${swatch('stroke="var(--slowest)" stroke-width="12"')}slowest read`,
    `${swatch('stroke="var(--most)" stroke-width="12"')}99th percentile`,
    `${swatch('stroke="var(--ink)" stroke-width="1.5"')}median`,
  ];
  if (run.baseline.reads > 0) {
    const dashes = swatch('stroke="var(--ink)" stroke-width="1.5" stroke-dasharray="5 4"');
    lines.push(`${dashes}slowest before the first fault, ${formatMs(run.baseline.longestMs)}`);
  }
  const round = (classes: string) =>
    `<svg class="shape" viewBox="-7 -7 14 14" aria-hidden="true"><use href="#k-manager"${classes}/></svg>`;
  const marks = `<p><span>${round("")} takeover: the same socket, another worker</span> \
<span>${round(' class="open"')} reconnect, or no failover needed</span></p>`;
  const hint = "Touch or hover to read a moment; pinch or drag to zoom; arrow keys go from fault to fault.";
  return `<noscript><p class="note">The charts need JavaScript. The tables hold every number.</p></noscript>
<figure id="figure" hidden tabindex="0" aria-label="Latency and throughput over time, with each fault marked; \
the tables below hold the same numbers">
<figcaption><h2>How long reads took</h2><button id="whole" type="button" hidden>whole run</button>
<p>${lines.map((line) => `<span>${line}</span>`).join(" ")}</p>
${run.faults.length > 0 ? marks : ""}</figcaption>
<div id="latency"></div>
<p class="label">Throughput, MiB/s</p>
<div id="rate"></div>
<div id="readout" data-idle="yes" data-side="right" data-hint="${hint}" aria-live="polite">\
<p class="hint">${hint}</p></div>
</figure>`;
}

function stalls(run: ChaosRun): string {
  if (run.faults.length === 0) return "";
  return `<section><h2>Stalls by kind of fault</h2>
<p class="note">The longest read after each fault. In the strips the thick stroke is the median and the thin one \
the 99th percentile. Choose a kind to see it alone, here and in the chart.</p>
${kindsTable(run)}</section>`;
}

function reads(run: ChaosRun): string {
  const row = (name: string, figures: ReadFigures) =>
    `<tr><td>${name}</td><td>${formatCount(figures.reads)}</td>${[
      figures.p50Ms,
      figures.p99Ms,
      figures.p999Ms,
      figures.longestMs,
    ]
      .map((ms) => `<td>${figures.reads === 0 ? "–" : formatMsCell(ms)}</td>`)
      .join("")}</tr>`;
  const { wrong, errors, uncounted } = run.totals;
  const count = (number: number, one: string, many: string) =>
    `<span${number === 0 ? "" : ' class="bad"'}>${number === 0 ? `no ${one}` : plural(number, one, many)}</span>`;
  return `<section><h2>All reads</h2>
<table class="reads"><thead><tr><th></th><th>reads</th><th>median, ms</th><th>p99, ms</th>\
<th>p99.9, ms</th><th>longest, ms</th></tr></thead>
<tbody>${row("before the first fault", run.baseline)}${row("whole run", run.totals)}</tbody></table>
<p class="note">Every read was compared with the image: ${count(wrong, "wrong read", "wrong reads")}, \
${count(errors, "I/O error", "I/O errors")}, ${count(uncounted, "uncounted failover", "uncounted failovers")}.</p>
</section>`;
}

function facts(run: ChaosRun): string {
  const rows: [string, string][] = [
    ["device", `<code>${escapeHtml(run.device)}</code>`],
    ["image", `<code>${escapeHtml(run.image)}</code>, ${formatCount(run.imageBytes)} bytes`],
    ["kernel", escapeHtml(run.kernel)],
    [
      "software",
      `erofs-nbd ${escapeHtml(run.version)}, Node.js ${escapeHtml(run.nodeVersion.replace(/^v/, ""))}`,
    ],
    ["begun", escapeHtml(run.startedAt)],
    ["reader", `${plural(run.depth, "read")} under way at any time, past the page cache`],
    ["faults", `${escapeHtml(run.what.join(", "))}; about every ${formatMs(run.intervalMs)}`],
  ];
  return `<section><h2>What ran</h2>
<dl>${rows.map(([name, value]) => `<dt>${name}</dt><dd>${value}</dd>`).join("\n")}</dl>
<p>To repeat it, with the same faults in the same order:</p>
<code class="command">${command(run)}</code></section>`;
}

/** Breaks between options, and after the commas of long ones, so that what is copied stays whole. */
function command(run: ChaosRun): string {
  const { faults, intervalMs, what, seed, depth } = run;
  const words = [
    "erofs-nbd chaos",
    shellWord(run.device),
    `--kills ${Math.max(1, faults.length)}`,
    `--interval ${intervalMs}`,
    `--what ${what.join(",")}`,
    `--seed ${seed}`,
    `--depth ${depth}`,
  ];
  return words
    .map((word) => {
      const text = escapeHtml(word).replaceAll(",", ",<wbr>");
      return `<span${word.length > 24 ? ' class="long"' : ""}>${text}</span>`;
    })
    .join(" ");
}

function faults(run: ChaosRun): string {
  if (run.faults.length === 0) return "";
  const summary = `${plural(run.faults.length, "fault")}, by time; a time leads to the chart`;
  return `<section><h2>Every fault</h2><details><summary>${summary}</summary>
${faultTable(run)}</details></section>`;
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
