/**
 * A run in words: the line of one fault, and the table at the end. Pure.
 */
import { plural } from "../text/plural.ts";
import { printable } from "../text/printable.ts";
import { formatSize } from "../text/sizes.ts";
import type { ChaosRun, FaultOutcome, KindSummary } from "./run.ts";
import type { LoggedFault } from "./run-log.ts";

/** For example `0.31 ms`, `12.5 ms`, `1.07 s`. */
export function formatMs(ms: number): string {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;
}

/** For example `  12.3 s  3/20  SIGKILL to worker 4712: takeover, stood still 12.5 ms; longest read 31.0 ms`. */
export function describeFault(fault: LoggedFault, number: number, of: number): string {
  const { outcome } = fault;
  const when = `${(fault.atMs / 1000).toFixed(1)} s`.padStart(9);
  return `${when}  ${number}/${of}  ${fault.label}: ${inWords(outcome)}; longest read ${formatMs(fault.longestReadMs)}`;
}

function inWords(outcome: FaultOutcome | null): string {
  if (outcome === null) return "no outcome";
  const stall = outcome.stallMs > 0 ? `, stood still ${formatMs(outcome.stallMs)}` : "";
  if (outcome.level === "none") return `no failover${stall}`;
  return `${outcome.level}${outcome.result === "failed" ? " failed" : ""}${stall}`;
}

const HEADS = ["KIND", "FAULTS", "TAKEOVERS", "RECONNECTS", "P50", "P99", "LONGEST"] as const;

/** The summary of a run as text: verdict, stalls by kind, reads, the command to repeat it. */
export function formatSummary(run: ChaosRun, isInterrupted: boolean): string {
  return [
    formatVerdict(run, isInterrupted),
    ...run.problems.map((line) => `  ${printable(line)}`),
    "",
    ...formatKinds(run.kinds),
    "P50, P99 and LONGEST: the longest read after each fault; none: the longest of each 0.2 s before the first.",
    "",
    `reads before the first fault  ${formatReads(run.baseline)}`,
    `reads in all                  ${formatReads(run.totals)}`,
    `again: ${repeatCommand(run)}`,
  ].join("\n");
}

/** The command that makes the same plan. */
export function repeatCommand(run: ChaosRun): string {
  const { device, what, intervalMs, depth, seed } = run;
  return `erofs-nbd chaos ${device} --what ${what.join(",")} --interval ${intervalMs} --depth ${depth} --seed ${seed}`;
}

function formatVerdict(run: ChaosRun, isInterrupted: boolean): string {
  const { totals, faults, verdict } = run;
  const failovers = run.kinds.reduce((sum, kind) => sum + kind.takeovers + kind.reconnects, 0);
  return [
    `${verdict}${isInterrupted ? ", interrupted" : ""}: ${plural(faults.length, "fault")}`,
    `${plural(failovers, "failover")} recovered`,
    `${totals.uncounted} uncounted`,
    `${plural(totals.reads, "read")} (${formatSize(totals.bytes)}), ${totals.wrong} wrong`,
    plural(totals.errors, "error"),
    `${(run.durationMs / 1000).toFixed(1)} s`,
  ].join(", ");
}

function formatReads(figures: ChaosRun["baseline"]): string {
  const { p50Ms, p99Ms, p999Ms, longestMs } = figures;
  return `p50 ${formatMs(p50Ms)}, p99 ${formatMs(p99Ms)}, p99.9 ${formatMs(p999Ms)}, longest ${formatMs(longestMs)}`;
}

function formatKinds(kinds: readonly KindSummary[]): string[] {
  const rows = [HEADS.map(String), ...kinds.map(toRow)];
  const widths = HEADS.map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, at) => (at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0)))
      .join("  "),
  );
}

function toRow({ kind, count, takeovers, reconnects, p50Ms, p99Ms, longestMs }: KindSummary): string[] {
  const counts = kind === "none" ? ["-", "-", "-"] : [count, takeovers, reconnects].map(String);
  return [kind, ...counts, formatMs(p50Ms), formatMs(p99Ms), formatMs(longestMs)];
}
