/**
 * Numbers and texts as the chaos report shows them, and the escaping that every text of the run goes through.
 *
 * Called by the other files of the report. `formatMs` and `formatClock` also run in the reader's browser. Pure; does no
 * I/O.
 */
import { nounFor } from "../../text/plural.ts";
import { printable } from "../../text/printable.ts";
import { formatSize } from "../../text/sizes.ts";

/** For example `0.42 ms`, `3.4 ms`, `124 ms`, `1.05 s`, `12.3 s`; an en dash if it is not a number. */
export function formatMs(milliseconds: number | null | undefined): string {
  if (milliseconds === null || milliseconds === undefined || !Number.isFinite(milliseconds)) return "–";
  if (milliseconds >= 9_995) return `${(milliseconds / 1000).toFixed(1)} s`;
  if (milliseconds >= 999.5) return `${(milliseconds / 1000).toFixed(2)} s`;
  if (milliseconds >= 9.95) return `${milliseconds.toFixed(0)} ms`;
  return `${milliseconds.toFixed(milliseconds >= 0.995 ? 1 : 2)} ms`;
}

/** A moment of the run as `2:31` or `1:02:31`, with `digits` decimals of the second. */
export function formatClock(milliseconds: number, digits: number): string {
  const unit = 10 ** digits;
  const units = Math.round((Math.max(milliseconds, 0) / 1000) * unit);
  const seconds = (units / unit) % 60;
  const minutes = Math.floor(units / unit / 60);
  const tail = seconds.toFixed(digits).padStart(digits === 0 ? 2 : 3 + digits, "0");
  if (minutes < 60) return `${minutes}:${tail}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${tail}`;
}

/** Milliseconds for a column of numbers that are compared: always one decimal, no unit: `1 052.3`. */
export function formatMsCell(milliseconds: number): string {
  if (!Number.isFinite(milliseconds)) return "–";
  const [whole = "", decimal = ""] = milliseconds.toFixed(1).split(".");
  return `${grouped(whole)}.${decimal}`;
}

/** A count, with its thousands set apart by narrow spaces that do not break. */
export function formatCount(count: number): string {
  return Number.isFinite(count) ? grouped(count.toFixed(0)) : "–";
}

function grouped(digits: string): string {
  return digits.replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A formatted count with its noun, on one line: `1 read`, `1 024 reads`. */
export function plural(count: number, one: string, many?: string): string {
  return `${formatCount(count)}\u00a0${nounFor(count, one, many)}`;
}

/** Bytes as `107.8 MiB`. */
export function formatBytes(bytes: number): string {
  return bytes < 1024 ? plural(bytes, "byte") : formatSize(bytes).replace(" ", "\u00a0");
}

/** A duration for a sentence: `42 s`, `5 min 3 s`, `1 h 4 min`. */
export function formatSpan(milliseconds: number): string {
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 60) return `${seconds}\u00a0s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}\u00a0min${seconds % 60 === 0 ? "" : ` ${seconds % 60}\u00a0s`}`;
  return `${Math.floor(minutes / 60)}\u00a0h ${minutes % 60}\u00a0min`;
}

/** Any text as HTML text or as an attribute's value. */
export function escapeHtml(text: string): string {
  return printable(text).replace(/[&<>"'`]/g, (found) => `&#${found.codePointAt(0)};`);
}

/** A value as JSON that may stand inside a script element: no `<` in it can end the element or open a comment. */
export function jsonForScript(value: unknown): string {
  return JSON.stringify(value).replace(/</g, "\\u003c");
}

/**
 * Code of the report or of a library, for a script element; a backslash before the slash changes no string and no
 * expression.
 */
export function codeForScript(code: string): string {
  return code.replace(/<(?=\/script)/gi, "<\\").replace(/<!--/g, "<\\!--");
}

/** The decades that hold all of `values` on a logarithmic axis of milliseconds, cut at 1, 2 or 5. */
export function logRange(values: Iterable<number>): { readonly lowMs: number; readonly highMs: number } {
  let lowMs = Number.POSITIVE_INFINITY;
  let highMs = 0;
  for (const value of values) {
    if (!Number.isFinite(value) || value <= 0) continue;
    lowMs = Math.min(lowMs, value);
    highMs = Math.max(highMs, value);
  }
  if (highMs === 0) return { lowMs: 1, highMs: 1000 };
  const steps = [1, 2, 5];
  const round = (value: number, up: boolean) => {
    const decade = 10 ** Math.floor(Math.log10(value));
    const fits = steps.map((step) => step * decade).concat(10 * decade);
    return (up ? fits.find((step) => step >= value) : fits.findLast((step) => step <= value)) ?? decade;
  };
  const range = { lowMs: round(lowMs * 0.95, false), highMs: round(highMs * 1.1, true) };
  return range.highMs / range.lowMs >= 20 ? range : { lowMs: range.lowMs, highMs: range.lowMs * 20 };
}
