/** Types of table.mjs for TypeScript callers. */

/** A table of figures of which less is better. */
export interface Section {
  readonly name: string;
  readonly columns: readonly string[];
  /** After the decimal point. */
  readonly digits: number;
  /** What a figure may differ from the table without being worse or better. */
  readonly slack: (was: number, column: string) => number;
}

export interface Difference {
  readonly row: string;
  /** unknown: only in the table, or only measured. */
  readonly verdict: "worse" | "better" | "unknown";
  /** Names the figure, the old and the new value. */
  readonly text: string;
}

type Rows = ReadonlyMap<string, readonly number[]>;

export declare function readTable(
  text: string,
  name: string,
): { columns: string[]; rows: Map<string, number[]> };
export declare function writeTable(text: string, section: Section, rows: Rows): string;
export declare function formatTable(section: Section, rows: Rows): string;
export declare function compare(
  section: Section,
  table: { readonly columns: readonly string[]; readonly rows: Rows },
  measured: Rows,
): Difference[];
