/**
 * The kinds of fault as the report tells them apart: a word, a sentence, a shape and a colour each.
 *
 * Used by the tables and strips (SVG) and, as data, by the page's own script (canvas), so that a shape has one
 * definition. Shapes are SVG path data around (0, 0), five units to each side. Knows nothing of a run.
 */
import type { FaultKind } from "../run.ts";

export interface KindLook {
  readonly kind: FaultKind;
  /** What was done, as the table says it. */
  readonly deed: string;
  /** SVG path data. */
  readonly shape: string;
  /** On paper, and on a dark screen. */
  readonly light: string;
  readonly dark: string;
}

/** In the order in which the report lists them. */
export const KIND_LOOKS: readonly KindLook[] = [
  {
    kind: "worker",
    deed: "the serving worker is killed",
    shape: "M-5-4.5H5L0 5Z",
    light: "#1f6cb0",
    dark: "#6cb2f0",
  },
  {
    kind: "hang",
    deed: "the serving worker is stopped and hangs",
    shape: "M-4.6-4.8H-1V4.8H-4.6ZM1-4.8H4.6V4.8H1Z",
    light: "#b36a00",
    dark: "#eaa63e",
  },
  {
    kind: "link",
    deed: "the socket to the kernel is cut",
    shape: "M0-5.6L5.6 0L0 5.6L-5.6 0Z",
    light: "#14805a",
    dark: "#52c795",
  },
  {
    kind: "manager",
    deed: "the manager is killed",
    shape: "M-4.9 0A4.9 4.9 0 1 1 4.9 0A4.9 4.9 0 1 1-4.9 0Z",
    light: "#8a4ba6",
    dark: "#c994e4",
  },
  {
    kind: "both",
    deed: "worker and manager are killed together",
    shape: "M-4.8-5H4.8L-4.8 5H4.8Z",
    light: "#a2482a",
    dark: "#ec9170",
  },
  {
    kind: "upgrade",
    deed: "every worker is replaced, as planned",
    shape: "M-5 4.5H5L0-5Z",
    light: "#0b868f",
    dark: "#4fc8d2",
  },
];

/** The SVG definitions that `<use href="#k-worker">` refers to, and small ones, `#s-worker`; put once into the page. */
export function shapeDefinitions(): string {
  const paths = KIND_LOOKS.map(
    ({ kind, shape }) =>
      `<path id="k-${kind}" d="${shape}"/><path id="s-${kind}" d="${shape}" transform="scale(.66)"/>`,
  );
  return `<svg width="0" height="0" class="defs" aria-hidden="true"><defs>${paths.join("")}</defs></svg>`;
}

/** A shape in a line of text, in its kind's colour. */
export function shapeInText(kind: FaultKind, classes = ""): string {
  const use = `<use href="#k-${kind}"${classes === "" ? "" : ` class="${classes}"`}/>`;
  return `<svg class="shape ${kind}" viewBox="-7 -7 14 14" aria-hidden="true">${use}</svg>`;
}

/** Custom properties `--worker` … of one colour scheme, as CSS declarations. */
export function kindColours(scheme: "light" | "dark"): string {
  return KIND_LOOKS.map((look) => `--${look.kind}:${look[scheme]}`).join(";");
}
