/**
 * What the page's own script knows of the browser and of uPlot, and the data that the report hands to it.
 *
 * TypeScript's library of the DOM would be visible in the whole project, which is a program without one; these few
 * shapes are all that report-page-*.ts uses. Types only. Positions are CSS pixels unless a name says canvas.
 */
import type { FaultKind, FaultOutcome } from "../run.ts";

/** A fault as the page gets it: short names, because there may be thousands. */
export interface PageFault {
  readonly kind: FaultKind;
  readonly atMs: number;
  readonly label: string;
  readonly waitMs: number;
  readonly outcome: FaultOutcome | null;
  /** Not recovered. */
  readonly bad: boolean;
}

/** The JSON inside `<script id="run">`. Columns of equal length, one entry per span of time. */
export interface PageData {
  readonly durationMs: number;
  readonly spanMs: number;
  readonly lowMs: number;
  readonly highMs: number;
  /** The slowest read before the first fault, or null. */
  readonly usualMs: number | null;
  readonly at: readonly number[];
  readonly p50: readonly (number | null)[];
  readonly p99: readonly (number | null)[];
  readonly max: readonly (number | null)[];
  readonly reads: readonly number[];
  /** MiB/s. */
  readonly rate: readonly number[];
  readonly faults: readonly PageFault[];
  /** One lane each, from the top. */
  readonly kinds: readonly { readonly kind: FaultKind; readonly shape: string }[];
}

export interface PagePath {
  readonly pathOnly: true;
}

export interface Canvas2d {
  fillStyle: string;
  strokeStyle: string;
  lineWidth: number;
  globalAlpha: number;
  font: string;
  textAlign: string;
  textBaseline: string;
  save(): void;
  restore(): void;
  beginPath(): void;
  rect(x: number, y: number, width: number, height: number): void;
  clip(): void;
  moveTo(x: number, y: number): void;
  lineTo(x: number, y: number): void;
  stroke(path?: PagePath): void;
  fill(path?: PagePath): void;
  fillText(text: string, x: number, y: number): void;
  setLineDash(lengths: readonly number[]): void;
  translate(x: number, y: number): void;
  scale(x: number, y: number): void;
}

export interface Box {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

export interface PageElement {
  textContent: string | null;
  className: string;
  hidden: boolean;
  open?: boolean;
  readonly clientWidth: number;
  readonly dataset: Record<string, string | undefined>;
  readonly style: Record<string, string>;
  append(...children: (PageElement | string)[]): void;
  replaceChildren(...children: (PageElement | string)[]): void;
  setAttribute(name: string, value: string): void;
  getBoundingClientRect(): Box;
  scrollIntoView(options: {
    readonly block: "start" | "nearest";
    readonly behavior: "smooth" | "auto";
  }): void;
  addEventListener(type: string, listener: (event: PageEvent) => void): void;
  querySelectorAll(selector: string): Iterable<PageElement>;
}

/** Of mouse, touch, pen and keyboard alike: the fields that are read. */
export interface PageEvent {
  readonly pointerId: number;
  readonly pointerType: string;
  readonly clientX: number;
  readonly clientY: number;
  readonly key: string;
  readonly currentTarget: PageElement;
  preventDefault(): void;
}

export interface PageWindow {
  readonly document: {
    readonly documentElement: PageElement;
    getElementById(id: string): PageElement | null;
    createElement(name: string): PageElement;
    querySelectorAll(selector: string): Iterable<PageElement>;
  };
  readonly devicePixelRatio: number;
  readonly Path2D: new (data: string) => PagePath;
  readonly ResizeObserver: new (listener: () => void) => { observe(element: PageElement): void };
  getComputedStyle(element: PageElement): { getPropertyValue(name: string): string };
  matchMedia(query: string): {
    readonly matches: boolean;
    addEventListener(type: string, listener: () => void): void;
  };
  addEventListener(type: string, listener: () => void): void;
  requestAnimationFrame(callback: () => void): void;
}

/** uPlot 1.6, as far as it is used. */
export interface Plot {
  readonly ctx: Canvas2d;
  readonly over: PageElement;
  /** The plotting area in canvas pixels. */
  readonly bbox: Box;
  readonly scales: Record<string, { readonly min?: number; readonly max?: number } | undefined>;
  valToPos(value: number, scale: string, inCanvasPixels?: boolean): number;
  posToVal(position: number, scale: string): number;
  setScale(scale: string, range: { readonly min: number; readonly max: number }): void;
  setSize(size: { readonly width: number; readonly height: number }): void;
  setCursor(position: { readonly left: number; readonly top: number }): void;
  redraw(rebuildPaths?: boolean, recalcAxes?: boolean): void;
}

export interface PlotConstructor {
  new (options: object, data: readonly (readonly (number | null)[])[], target: PageElement): Plot;
  readonly pxRatio: number;
  readonly paths: { stepped(options: { readonly align: 1; readonly alignGaps: 1 }): unknown };
}

/** What the parts of the page's script share. */
export interface Page {
  readonly window: PageWindow;
  readonly uPlot: PlotConstructor;
  readonly data: PageData;
  readonly shapes: ReadonlyMap<string, PagePath>;
  /** Of a CSS custom property, in the colour scheme that holds now. */
  colour(name: string): string;
  formatMs(milliseconds: number | null | undefined): string;
  formatClock(milliseconds: number, digits: number): string;
  readonly chosen: {
    /** Only faults of this kind are shown. */
    kind: string | undefined;
    /** Index of the fault that the readout tells about. */
    fault: number | undefined;
  };
  latency: Plot | undefined;
  rate: Plot | undefined;
}
