/**
 * The two uPlot charts: latency on a logarithmic axis, and throughput beneath it, on one axis of time.
 *
 * Runs in the reader's browser only, see report-page-marks.ts; `drawing` brings that file's functions. uPlot draws
 * lines, axes and the cursor; the faults are drawn from its hooks.
 */
import type { Page, PageElement, Plot } from "./page-types.ts";

/** The hooks of the latency chart, by what they draw. */
export interface Drawing {
  laneHeight(): number;
  drawLanes(page: Page, plot: Plot): void;
  drawStems(page: Page, plot: Plot): void;
  drawShapes(page: Page, plot: Plot): void;
  drawUsual(page: Page, plot: Plot): void;
}

/** CSS pixels for the axis at the left: the widest lane's name must fit. */
export function gutter(): number {
  return 60;
}

/** Makes both charts in their elements and links their axes of time. */
export function makePlots(page: Page, drawing: Drawing, latencyIn: PageElement, rateIn: PageElement): void {
  const { data } = page;
  const end = data.durationMs;
  page.latency = new page.uPlot(
    latencyOptions(page, drawing, latencyIn.clientWidth),
    [
      [...data.at, end],
      [...data.max, data.max.at(-1) ?? null],
      [...data.p99, data.p99.at(-1) ?? null],
      [...data.p50, data.p50.at(-1) ?? null],
    ],
    latencyIn,
  );
  page.rate = new page.uPlot(
    rateOptions(page, rateIn.clientWidth),
    [
      [...data.at, end],
      [...data.rate, data.rate.at(-1) ?? 0],
    ],
    rateIn,
  );
}

/** After a change of the window's width: the charts follow, the latency chart's height too. */
export function fitPlots(page: Page, drawing: Drawing, widthPx: number): void {
  page.latency?.setSize({ width: widthPx, height: latencyHeight(page, drawing, widthPx) });
  page.rate?.setSize({ width: widthPx, height: rateHeight(widthPx) });
}

export function latencyHeight(page: Page, drawing: Drawing, widthPx: number): number {
  return (widthPx < 600 ? 280 : 340) + page.data.kinds.length * drawing.laneHeight();
}

export function rateHeight(widthPx: number): number {
  return widthPx < 600 ? 96 : 110;
}

export function latencyOptions(page: Page, drawing: Drawing, widthPx: number): object {
  const { data, uPlot } = page;
  const stepped = {
    scale: "y",
    paths: uPlot.paths.stepped({ align: 1, alignGaps: 1 }),
    points: { show: false },
  };
  const area = (colour: string) => ({ ...stepped, width: 0, fill: () => page.colour(colour) });
  return {
    ...commonOptions(),
    width: widthPx,
    height: latencyHeight(page, drawing, widthPx),
    padding: [data.kinds.length * drawing.laneHeight() + 18, 10, 4, 0],
    scales: {
      x: { time: false, range: (_: Plot, from: number, to: number) => timeRange(page, from, to) },
      y: { distr: 3, log: 10, range: () => [data.lowMs, data.highMs] },
    },
    series: [
      {},
      { ...area("slowest"), width: 1, stroke: () => page.colour("soft") },
      area("most"),
      { ...stepped, width: 1, stroke: () => page.colour("ink") },
    ],
    axes: [{ show: false }, latencyAxis(page)],
    hooks: {
      drawClear: [(plot: Plot) => drawing.drawLanes(page, plot)],
      drawAxes: [(plot: Plot) => drawing.drawStems(page, plot)],
      draw: [(plot: Plot) => drawing.drawUsual(page, plot), (plot: Plot) => drawing.drawShapes(page, plot)],
      setScale: [
        (plot: Plot, scale: string) => followTime(page.rate, plot, scale),
        (plot: Plot) => offerWholeRun(page, plot),
      ],
    },
  };
}

export function latencyAxis(page: Page): object {
  const { lowMs, highMs } = page.data;
  const steps = highMs / lowMs > 600 ? [1] : highMs / lowMs > 60 ? [1, 3] : [1, 2, 5];
  const marks: number[] = [];
  for (let decade = 10 ** Math.floor(Math.log10(lowMs)); decade <= highMs; decade *= 10) {
    for (const step of steps) {
      const mark = Number((step * decade).toPrecision(1));
      if (mark >= lowMs && mark <= highMs) marks.push(mark);
    }
  }
  return {
    ...axisLook(page),
    size: gutter(),
    splits: () => marks,
    filter: (_: Plot, splits: number[]) => splits,
    values: (_: Plot, splits: number[]) =>
      splits.map((split) => (split >= 1000 ? `${split / 1000} s` : `${split} ms`)),
  };
}

export function rateOptions(page: Page, widthPx: number): object {
  return {
    ...commonOptions(),
    width: widthPx,
    height: rateHeight(widthPx),
    padding: [8, 10, 0, 0],
    scales: {
      x: { time: false, range: (_: Plot, from: number, to: number) => timeRange(page, from, to) },
      y: { range: (_: Plot, __: number, max: number) => [0, max > 0 ? max * 1.05 : 1] },
    },
    series: [
      {},
      {
        width: 1,
        paths: page.uPlot.paths.stepped({ align: 1, alignGaps: 1 }),
        points: { show: false },
        stroke: (plot: Plot) => (isDense(page, plot) ? "transparent" : page.colour("soft")),
        fill: () => page.colour("slowest"),
      },
    ],
    axes: [timeAxis(page), rateAxis(page)],
    hooks: { setScale: [(plot: Plot, scale: string) => followTime(page.latency, plot, scale)] },
  };
}

export function rateAxis(page: Page): object {
  return {
    ...axisLook(page),
    size: gutter(),
    space: 26,
    values: (_: Plot, splits: number[]) => splits.map(String),
  };
}

export function timeAxis(page: Page): object {
  const seconds = [
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200,
  ];
  return {
    ...axisLook(page),
    grid: { show: false },
    ticks: { show: true, size: 5, width: 1, stroke: () => page.colour("faint") },
    size: 28,
    space: 56,
    incrs: seconds.map((step) => step * 1000),
    values: (_: Plot, splits: number[]) => {
      const isFine = splits.some((split) => split % 1000 !== 0);
      return splits.map((split) => page.formatClock(split, isFine ? 1 : 0));
    },
  };
}

export function axisLook(page: Page): object {
  return {
    font: "11px system-ui, sans-serif",
    gap: 6,
    stroke: () => page.colour("muted"),
    grid: { width: 1, stroke: () => page.colour("rule") },
    ticks: { show: false },
  };
}

export function commonOptions(): object {
  return {
    legend: { show: false },
    cursor: {
      y: false,
      points: { show: false },
      drag: { x: true, y: false, dist: 6, setScale: true },
      sync: { key: "run", scales: ["x", null] },
    },
  };
}

/** All of the run at first, then what a zoom asks for, never beyond the run. */
export function timeRange(page: Page, from: number | null, to: number | null): [number, number] {
  const end = page.data.durationMs;
  const low = Math.max(0, from ?? 0);
  const high = Math.min(end, to ?? end);
  return low < high ? [low, high] : [0, end];
}

/** What one chart shows of the time, the other shows too. */
export function followTime(other: Plot | undefined, plot: Plot, scale: string): void {
  const mine = plot.scales["x"];
  const theirs = other?.scales["x"];
  if (scale !== "x" || other === undefined || mine?.min === undefined || mine.max === undefined) return;
  if (theirs?.min === mine.min && theirs.max === mine.max) return;
  other.setScale("x", { min: mine.min, max: mine.max });
}

/** So many spans that their outline would hide what it goes around. */
export function isDense(page: Page, plot: Plot): boolean {
  const { min = 0, max = page.data.durationMs } = plot.scales["x"] ?? {};
  return (max - min) / page.data.spanMs > (0.6 * plot.bbox.width) / page.uPlot.pxRatio;
}

/** The way back is shown only where there is one to go. */
export function offerWholeRun(page: Page, plot: Plot): void {
  const { min = 0, max = page.data.durationMs } = plot.scales["x"] ?? {};
  const button = page.window.document.getElementById("whole");
  if (button !== null) button.hidden = min <= 0 && max >= page.data.durationMs;
}
