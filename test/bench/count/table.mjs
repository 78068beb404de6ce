// @ts-check
/**
 * The committed figures: Markdown tables between marks in README.md. They are read, written, and compared with what
 * was measured.
 */

/** @typedef {import("./table.d.mts").Section} Section */
/** @typedef {import("./table.d.mts").Difference} Difference */
/** @typedef {Map<string, number[]>} Rows */

/** @param {string} name */
const begin = (name) => `<!-- counts: ${name} -->`;
const END = "<!-- /counts -->";

/** @param {string} text @param {string} name */
function place(text, name) {
  const from = text.indexOf(begin(name));
  const to = text.indexOf(END, from);
  if (from < 0 || to < 0) throw new Error(`The table of ${name} is not between its marks`);
  return { from: from + begin(name).length, to };
}

/**
 * The rows of one section, with the columns that they were written for.
 * @param {string} text of README.md
 * @param {string} name
 * @returns {{ columns: string[], rows: Rows }}
 */
export function readTable(text, name) {
  const { from, to } = place(text, name);
  const lines = text
    .slice(from, to)
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  const [head = [], , ...body] = lines;
  const rows = body.map(([row = "", ...cells]) => /** @type {const} */ ([row, cells.map(numberOf)]));
  return { columns: head.slice(1), rows: new Map(rows) };
}

/** @param {string} cell */
function numberOf(cell) {
  const value = Number(cell);
  if (cell === "" || Number.isNaN(value)) throw new Error(`The table has '${cell}' where a number should be`);
  return value;
}

/**
 * The text with a section's table written anew.
 * @param {string} text
 * @param {Section} section
 * @param {ReadonlyMap<string, readonly number[]>} rows
 */
export function writeTable(text, section, rows) {
  const { from, to } = place(text, section.name);
  return `${text.slice(0, from)}\n${formatTable(section, rows)}\n${text.slice(to)}`;
}

/** @param {Section} section @param {ReadonlyMap<string, readonly number[]>} rows */
export function formatTable({ columns, digits }, rows) {
  const lines = [
    ["", ...columns],
    ["---", ...columns.map(() => "--:")],
    ...[...rows].map(([row, values]) => [row, ...values.map((value) => `${rounded(value, digits)}`)]),
  ];
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** @param {number} value @param {number} digits */
function rounded(value, digits) {
  return Number(value.toFixed(digits));
}

/**
 * What is worse or better than the table by more than the section's slack, and what is only here or only there.
 * @param {Section} section
 * @param {{ columns: readonly string[], rows: ReadonlyMap<string, readonly number[]> }} table
 * @param {ReadonlyMap<string, readonly number[]>} measured
 * @returns {Difference[]}
 */
export function compare(section, table, measured) {
  /** @type {Difference[]} */
  const differences = [];
  for (const row of new Set([...table.rows.keys(), ...measured.keys()])) {
    const side = !table.rows.has(row) ? "measured" : !measured.has(row) ? "in the table" : "both";
    if (side !== "both") {
      differences.push({ row, verdict: "unknown", text: `${section.name}: ${row}: only ${side}` });
      continue;
    }
    for (const column of new Set([...table.columns, ...section.columns])) {
      const was = table.rows.get(row)?.[table.columns.indexOf(column)];
      const value = measured.get(row)?.[section.columns.indexOf(column)];
      const is = value === undefined ? undefined : rounded(value, section.digits);
      const verdict = judge(was, is, was === undefined ? 0 : section.slack(was, column));
      const figure = `${section.name}: ${row}: ${column}`;
      if (verdict !== "same") differences.push({ row, verdict, text: describe(figure, was, is, verdict) });
    }
  }
  return differences;
}

/**
 * @param {number | undefined} was
 * @param {number | undefined} is
 * @param {number} slack
 * @returns {Difference["verdict"] | "same"}
 */
function judge(was, is, slack) {
  if (was === undefined && is === undefined) return "same";
  if (was === undefined || is === undefined) return "unknown";
  if (is > was + slack) return "worse";
  return is < was - slack ? "better" : "same";
}

/**
 * @param {string} figure
 * @param {number | undefined} was
 * @param {number | undefined} is
 * @param {Difference["verdict"]} verdict
 */
function describe(figure, was, is, verdict) {
  if (was === undefined) return `${figure}: ${is}, which the table does not have`;
  if (is === undefined) return `${figure}: ${was} in the table, and not measured`;
  return `${figure}: ${verdict}: ${was} in the table, ${is} now`;
}
