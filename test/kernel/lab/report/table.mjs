// @ts-check
/**
 * The table test file x kernel: what was planned, held against vitest's report of the whole run, so that nothing
 * disappears unseen.
 *
 * test/run.mjs prints it at the end. Pure.
 */
import { guestFiles, plannedFiles, SYSTEMD_FILE, SYSTEMD_KERNEL } from "../plan.mjs";

/** Of vitest's JSON report, what is needed here. */
/** @typedef {{ status: string, ancestorTitles: readonly string[] }} Assertion */
/** @typedef {{ testResults: ReadonlyArray<{ assertionResults: readonly Assertion[] }> }} Report */
/** @typedef {{ passed: number, failed: number, skipped: number }} Cell */

/**
 * @param {Report} report
 * @param {{ kernels: readonly string[], wanted: readonly string[], isWhole: boolean }} run `kernels` that were asked
 * for, words of file
 * names that were `wanted` (none: all), and whether the run was for every project: where it was not, only kernels that
 * ran count
 * @returns {{ text: string, missing: number }} the table, empty where no kernel ran, and how many planned cells have no
 * test
 */
export function kernelTable(report, { kernels, wanted, isWhole }) {
  const { cells, skippedKernels } = cellsOf(report);
  const has = (/** @type {string} */ kernel) =>
    [...cells.keys()].some((key) => key.startsWith(`${kernel}\0`));
  const columns = kernels.filter((kernel) => isWhole || has(kernel) || skippedKernels.has(kernel));
  if (columns.length === 0) return { text: "", missing: 0 };
  const planned = new Set(
    columns.flatMap((kernel) => plannedFiles(kernel, wanted).map((file) => `${kernel}\0${file}`)),
  );
  const wantsSystemd = wanted.length === 0 || wanted.some((word) => SYSTEMD_FILE.includes(word));
  if (columns.includes(SYSTEMD_KERNEL) && wantsSystemd) planned.add(`${SYSTEMD_KERNEL}\0${SYSTEMD_FILE}`);
  const files = [...guestFiles(), SYSTEMD_FILE, ...odd(cells)].filter((file) =>
    columns.some((kernel) => planned.has(`${kernel}\0${file}`) || cells.has(`${kernel}\0${file}`)),
  );
  let missing = 0;
  const rows = files.map((file) => [
    file,
    ...columns.map((kernel) => {
      const cell = cells.get(`${kernel}\0${file}`);
      if (cell !== undefined) return describe(cell);
      if (!planned.has(`${kernel}\0${file}`)) return "-";
      // A machine that cannot boot it has said so, as a test that is skipped.
      if (skippedKernels.has(kernel)) return "skipped";
      missing += 1;
      return "NOT RUN";
    }),
  ]);
  const text = layOut([["kernel tests", ...columns], ...rows]);
  return { text: `${text}\n- is left out on purpose: see test/kernel/lab/plan.mjs\n`, missing };
}

/** @param {Report} report */
function cellsOf(report) {
  /** @type {Map<string, Cell>} */
  const cells = new Map();
  /** @type {Set<string>} */
  const skippedKernels = new Set();
  for (const { status, ancestorTitles } of report.testResults.flatMap(
    ({ assertionResults }) => assertionResults,
  )) {
    const [kernel, file] = placeOf(ancestorTitles) ?? [];
    if (kernel === undefined) continue;
    if (file === undefined) {
      if (status !== "failed") skippedKernels.add(kernel);
      continue;
    }
    const cell = cells.get(`${kernel}\0${file}`) ?? { passed: 0, failed: 0, skipped: 0 };
    cells.set(`${kernel}\0${file}`, cell);
    cell[status === "passed" || status === "failed" ? status : "skipped"] += 1;
  }
  return { cells, skippedKernels };
}

/**
 * The titles that linux-suite.ts and systemd.test.ts give.
 * @param {readonly string[]} titles
 * @returns {[kernel: string, file?: string] | undefined}
 */
function placeOf([top = "", file]) {
  if (top === `linux ${SYSTEMD_KERNEL} with systemd`) return [SYSTEMD_KERNEL, SYSTEMD_FILE];
  const kernel = top === "this machine's kernel" ? "host" : /^linux (\S+)$/.exec(top)?.[1];
  if (kernel === undefined) return undefined;
  return file === undefined ? [kernel] : [kernel, file];
}

/**
 * What is no file: "the whole run".
 * @param {ReadonlyMap<string, Cell>} cells
 */
function odd(cells) {
  const names = new Set([...cells.keys()].map((key) => key.split("\0")[1] ?? ""));
  for (const file of [...guestFiles(), SYSTEMD_FILE]) names.delete(file);
  return names;
}

/** @param {Cell} cell */
function describe({ passed, failed, skipped }) {
  const parts = [`${passed}`];
  if (failed > 0) parts.push(`${failed} FAILED`);
  if (skipped > 0) parts.push(`${skipped} skipped`);
  return parts.join(", ");
}

/** @param {ReadonlyArray<readonly string[]>} rows */
function layOut(rows) {
  const widths = (rows[0] ?? []).map((_, at) => Math.max(...rows.map((row) => (row[at] ?? "").length)));
  return rows
    .map((row) =>
      row
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
