/**
 * The column layout of the live table: images and mount points share the width that the numbers leave. If it is too
 * little, cells are shortened and columns left out.
 *
 * Pure. Used by frame.ts.
 */
import { pad, shorten, width } from "./cells.ts";

export interface TableRow {
  readonly device: string;
  readonly state: string;
  readonly image: string;
  readonly mount: string;
  readonly reads: string;
  readonly mebibytes: string;
  readonly latencies: string;
  readonly failover: string;
  /** A shorter form for narrow terminals. */
  readonly shortFailover: string;
}

/** A line in three parts, so that the state can be coloured. The spaces belong to the other parts. */
export interface TableLine {
  readonly before: string;
  readonly state: string;
  readonly after: string;
}

interface Column {
  readonly key: keyof TableRow;
  readonly head: string;
  readonly side: "left" | "right";
  /** Set for flexible columns: where their cells are truncated. */
  readonly cut?: "start" | "middle" | "end";
}

const DEVICE: Column = { key: "device", head: "DEVICE", side: "left" };
const STATE: Column = { key: "state", head: "STATE", side: "left" };
const IMAGE: Column = { key: "image", head: "IMAGE", side: "left", cut: "middle" };
const MOUNT: Column = { key: "mount", head: "MOUNTED", side: "left", cut: "start" };
const READS: Column = { key: "reads", head: "READS/S", side: "right" };
const MEBIBYTES: Column = { key: "mebibytes", head: "MIB/S", side: "right" };
const LATENCIES: Column = { key: "latencies", head: "P50/P99 MS", side: "right" };
const FAILOVER: Column = { key: "failover", head: "LAST FAILOVER", side: "left" };
const SHORT_FAILOVER: Column = { key: "shortFailover", head: "FAILOVER", side: "left" };

/** In order of preference; the last one fits any width. */
const PLANS: ReadonlyArray<{ readonly gap: number; readonly columns: readonly Column[] }> = [
  { gap: 2, columns: [DEVICE, STATE, IMAGE, MOUNT, READS, MEBIBYTES, LATENCIES, FAILOVER] },
  { gap: 1, columns: [DEVICE, STATE, IMAGE, MOUNT, READS, MEBIBYTES, LATENCIES, SHORT_FAILOVER] },
  { gap: 1, columns: [DEVICE, STATE, IMAGE, READS, MEBIBYTES, LATENCIES, SHORT_FAILOVER] },
  { gap: 1, columns: [DEVICE, STATE, IMAGE, READS, LATENCIES] },
  { gap: 1, columns: [DEVICE, STATE, IMAGE, READS] },
  { gap: 1, columns: [DEVICE, STATE, IMAGE] },
];
/** The least useful width of an image's name or a mount point. */
const LEAST_FLEXIBLE = 8;

/** The header and one line per row, at most `columns` wide. */
export function layOut(
  rows: readonly TableRow[],
  columns: number,
): { heads: string; lines: readonly TableLine[] } {
  const plain = withoutExtension(rows);
  for (const plan of PLANS) {
    const room = columns - plan.gap * (plan.columns.length - 1);
    const natural = widthsOf(plan.columns, rows, room);
    const shown = natural !== undefined && !isImageCut(plan.columns, natural, rows) ? rows : plain;
    const widths = shown === rows ? natural : widthsOf(plan.columns, plain, room);
    if (widths !== undefined || plan === PLANS.at(-1))
      return compose(
        plan.columns,
        widths ?? plan.columns.map(() => LEAST_FLEXIBLE),
        plan.gap,
        shown,
        columns,
      );
  }
  throw new Error("cannot lay out the table: there is no plan");
}

const EXTENSION = ".erofs";

/** Drops the extension if all images have it, to save width. */
function withoutExtension(rows: readonly TableRow[]): readonly TableRow[] {
  const isCommon = rows.every(({ image }) => image.endsWith(EXTENSION) && image !== EXTENSION);
  return isCommon ? rows.map((row) => ({ ...row, image: row.image.slice(0, -EXTENSION.length) })) : rows;
}

function isImageCut(
  columns: readonly Column[],
  widths: readonly number[],
  rows: readonly TableRow[],
): boolean {
  const at = columns.indexOf(IMAGE);
  return rows.some(({ image }) => width(image) > (widths[at] ?? 0));
}

/** The width of each column; undefined if they do not fit. */
function widthsOf(columns: readonly Column[], rows: readonly TableRow[], room: number): number[] | undefined {
  const natural = columns.map(({ key, head }) =>
    rows.reduce((most, row) => Math.max(most, width(row[key])), head.length),
  );
  const flexible = [...columns.keys()].filter((at) => columns[at]?.cut !== undefined);
  const rigid = natural.reduce((sum, own, at) => (flexible.includes(at) ? sum : sum + own), 0);
  let left = room - rigid;
  if (left < flexible.reduce((sum, at) => sum + Math.min(natural[at] as number, LEAST_FLEXIBLE), 0))
    return undefined;
  // The narrowest first: the width that it does not need goes to the others.
  const byNeed = flexible.sort((a, b) => (natural[a] as number) - (natural[b] as number));
  byNeed.forEach((at, done) => {
    const share = Math.floor(left / (byNeed.length - done));
    natural[at] = Math.min(natural[at] as number, share);
    left -= natural[at] as number;
  });
  return natural;
}

function compose(
  columns: readonly Column[],
  widths: readonly number[],
  gap: number,
  rows: readonly TableRow[],
  room: number,
): { heads: string; lines: readonly TableLine[] } {
  const cell = ({ side, cut }: Column, text: string, at: number): string =>
    pad(shorten(text, widths[at] ?? 0, cut ?? "end"), widths[at] ?? 0, side);
  const between = " ".repeat(gap);
  const heads = columns
    .map(({ side, head }, at) => pad(shorten(head, widths[at] ?? 0, "end"), widths[at] ?? 0, side))
    .join(between);
  const lines = rows.map((row): TableLine => {
    const [device = "", state = "", ...others] = columns.map((column, at) =>
      cell(column, row[column.key], at),
    );
    const before = shorten(device + between, room, "end");
    const middle = shorten(state, Math.max(0, room - width(before)), "end");
    const after = shorten(
      between + others.join(between),
      Math.max(0, room - width(before) - width(middle)),
      "end",
    );
    return { before, state: middle, after: after.trimEnd() };
  });
  return { heads: shorten(heads, room, "end"), lines };
}
