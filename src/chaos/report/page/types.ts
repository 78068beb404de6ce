/** What the parts of the page's script share. Types only. */
import type UPlot from "uplot";
import type { PageData } from "../page-data.ts";

/** Made by the global `uPlot`: the page has that library in a script element before its own. */
export type Plot = UPlot;

export interface Page {
  readonly data: PageData;
  readonly shapes: ReadonlyMap<string, Path2D>;
  /** Of a CSS custom property, in the colour scheme that holds now. */
  colour(name: string): string;
  readonly chosen: {
    /** Only faults of this kind are shown. */
    kind: string | undefined;
    /** Index of the fault that the readout tells about. */
    fault: number | undefined;
  };
  latency: Plot | undefined;
  rate: Plot | undefined;
}
