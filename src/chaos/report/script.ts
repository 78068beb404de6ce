/**
 * The code and the data that travel inside the report: uPlot, the page's own script, the run as columns.
 *
 * Called by report.ts. uPlot is read from the installed package, and the page's script from the file that the build
 * makes of page/ (tools/page-script.mjs). Loads nothing over a network.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { ErofsNbdError } from "../../errors.ts";
import { programFile } from "../../program-files.ts";
import { printable } from "../../text/printable.ts";
import type { ChaosRun, Fault } from "../run.ts";
import { codeForScript, jsonForScript, logRange } from "./format.ts";
import { KIND_LOOKS, type KindLook } from "./kinds.ts";
import type { PageData, PageFault } from "./page-data.ts";

/** uPlot's files as text. @throws ErofsNbdError if the package is not there, or not whole */
export function readPlotLibrary(): { readonly code: string; readonly css: string } {
  try {
    const resolve = createRequire(import.meta.url).resolve;
    const read = (name: string) => readFileSync(resolve(`uplot/${name}`), "utf8");
    const licence = read("LICENSE").trim().replaceAll("*/", "* /");
    return {
      code: codeForScript(`/*!\nuPlot\n${licence}\n*/\n${read("dist/uPlot.iife.min.js")}`),
      css: read("dist/uPlot.min.css").replaceAll("</", "<\\/"),
    };
  } catch (error) {
    throw new ErofsNbdError("ERR_INTERNAL", "cannot draw the report: uPlot is not installed, or not whole", {
      hint: "install erofs-nbd again, with its dependencies",
      cause: error,
    });
  }
}

/** The page's own script as text: page/ as one file, which the build makes. */
export function readPageScript(): string {
  return readFileSync(programFile("chaos/report/page.js"), "utf8");
}

/** The run as JSON for a script element. */
export function pageData(run: ChaosRun): string {
  return jsonForScript(toPageData(run));
}

/** What was before the first fault, in the end what all faults are compared with. */
export function pointsBeforeFaults(run: ChaosRun): ChaosRun["latency"] {
  const spanMs = spanOf(run);
  const firstMs = Math.min(...run.faults.slice(0, 1).map((fault) => fault.atMs), Number.POSITIVE_INFINITY);
  return run.latency.filter((point) => point.reads > 0 && point.atMs + spanMs <= firstMs);
}

/** The scale of milliseconds that the chart and the strips share. */
export function scaleOf(run: ChaosRun): { readonly lowMs: number; readonly highMs: number } {
  const points = run.latency.filter((point) => point.reads > 0);
  return logRange([
    ...points.map((point) => point.p50Ms),
    ...points.map((point) => point.maxMs),
    ...run.faults.map((fault) => fault.longestReadMs),
    ...run.kinds
      .filter((summary) => summary.count > 0)
      .flatMap((summary) => [summary.p50Ms, summary.longestMs]),
  ]);
}

/** The kinds that were asked for or occurred, in the report's order; none for a run without faults. */
export function kindsOf(run: ChaosRun): readonly KindLook[] {
  if (run.faults.length === 0) return [];
  const there = new Set([...run.what, ...run.faults.map((fault) => fault.kind)]);
  return KIND_LOOKS.filter((look) => there.has(look.kind));
}

/** A fault that the stack did not recover from, as far as the run could tell. */
export function isBad(fault: Fault): boolean {
  return fault.outcome !== null && fault.outcome.result !== "recovered";
}

function toPageData(run: ChaosRun): PageData {
  const spanMs = spanOf(run);
  const points = run.latency;
  const end = Math.max(run.durationMs, (points.at(-1)?.atMs ?? 0) + spanMs);
  const column = (read: (point: ChaosRun["latency"][number]) => number) =>
    points.map((point) => (point.reads > 0 ? toMicroseconds(Math.max(read(point), Number.EPSILON)) : null));
  return {
    durationMs: end,
    spanMs,
    ...scaleOf(run),
    usualMs:
      run.baseline.reads > 0 && run.baseline.longestMs > 0 ? toMicroseconds(run.baseline.longestMs) : null,
    at: points.map((point) => point.atMs),
    p50: column((point) => point.p50Ms),
    p99: column((point) => point.p99Ms),
    max: column((point) => point.maxMs),
    reads: points.map((point) => point.reads),
    rate: points.map((point) => toMicroseconds(point.bytes / 2 ** 20 / (spanMs / 1000))),
    faults: run.faults.map(toPageFault),
    kinds: kindsOf(run).map(({ kind, shape }) => ({ kind, shape })),
  };
}

function toPageFault(fault: Fault): PageFault {
  const { kind, atMs, outcome } = fault;
  return {
    kind,
    atMs,
    label: printable(fault.label),
    waitMs: toMicroseconds(fault.longestReadMs),
    outcome: outcome && { ...outcome, cause: printable(outcome.cause) },
    bad: isBad(fault),
  };
}

/** All spans are equally long; one alone lasts as long as the run. */
function spanOf(run: ChaosRun): number {
  const [first, second] = run.latency;
  const spanMs = first !== undefined && second !== undefined ? second.atMs - first.atMs : run.durationMs;
  return Math.max(1, spanMs);
}

/** More digits say nothing and fill the page. */
function toMicroseconds(value: number): number {
  return Math.round(value * 1000) / 1000;
}
