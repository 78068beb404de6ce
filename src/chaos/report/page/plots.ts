/**
 * The two uPlot charts: latency on a logarithmic axis, and throughput beneath it, on one axis of time.
 *
 * Runs in the reader's browser only. uPlot draws lines, axes and the cursor; its hooks draw the faults (marks.ts).
 */
import type UPlot from "uplot";
import { formatClock } from "../format.ts";
import { drawLanes, drawShapes, drawStems, drawUsual, laneHeight } from "./marks.ts";
import type { Page, Plot } from "./types.ts";

/** CSS pixels for the axis at the left: the widest lane's name must fit. */
export function gutter(): number {
  return 60;
}

/** Makes both charts in their elements and links their axes of time. */
export function makePlots(page: Page, latencyIn: HTMLElement, rateIn: HTMLElement): void {
  const { data } = page;
  const end = data.durationMs;
  page.latency = new uPlot(
    latencyOptions(page, latencyIn.clientWidth),
    [
      [...data.at, end],
      [...data.max, data.max.at(-1) ?? null],
      [...data.p99, data.p99.at(-1) ?? null],
      [...data.p50, data.p50.at(-1) ?? null],
    ],
    latencyIn,
  );
  page.rate = new uPlot(
    rateOptions(page, rateIn.clientWidth),
    [
      [...data.at, end],
      [...data.rate, data.rate.at(-1) ?? 0],
    ],
    rateIn,
  );
}

/** After a change of the window's width: the charts follow, the latency chart's height too. */
export function fitPlots(page: Page, widthPx: number): void {
  page.latency?.setSize({ width: widthPx, height: latencyHeight(page, widthPx) });
  page.rate?.setSize({ width: widthPx, height: rateHeight(widthPx) });
}

export function latencyHeight(page: Page, widthPx: number): number {
  return (widthPx < 600 ? 280 : 340) + page.data.kinds.length * laneHeight();
}

export function rateHeight(widthPx: number): number {
  return widthPx < 600 ? 96 : 110;
}

export function latencyOptions(page: Page, widthPx: number): UPlot.Options {
  const { data } = page;
  const stepped = {
    scale: "y",
    paths: steppedPaths(),
    points: { show: false },
  };
  const area = (colour: string) => ({ ...stepped, width: 0, fill: () => page.colour(colour) });
  return {
    ...commonOptions(),
    width: widthPx,
    height: latencyHeight(page, widthPx),
    padding: [data.kinds.length * laneHeight() + 18, 10, 4, 0],
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
      drawClear: [(plot: Plot) => drawLanes(page, plot)],
      drawAxes: [(plot: Plot) => drawStems(page, plot)],
      draw: [(plot: Plot) => drawUsual(page, plot), (plot: Plot) => drawShapes(page, plot)],
      setScale: [
        (plot: Plot, scale: string) => followTime(page.rate, plot, scale),
        (plot: Plot) => offerWholeRun(page, plot),
      ],
    },
  };
}

export function latencyAxis(page: Page): UPlot.Axis {
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

export function rateOptions(page: Page, widthPx: number): UPlot.Options {
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
        paths: steppedPaths(),
        points: { show: false },
        stroke: (plot: Plot) => (isDense(page, plot) ? "transparent" : page.colour("soft")),
        fill: () => page.colour("slowest"),
      },
    ],
    axes: [timeAxis(page), rateAxis(page)],
    hooks: { setScale: [(plot: Plot, scale: string) => followTime(page.latency, plot, scale)] },
  };
}

export function rateAxis(page: Page): UPlot.Axis {
  return {
    ...axisLook(page),
    size: gutter(),
    space: 26,
    values: (_: Plot, splits: number[]) => splits.map(String),
  };
}

export function timeAxis(page: Page): UPlot.Axis {
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
      return splits.map((split) => formatClock(split, isFine ? 1 : 0));
    },
  };
}

export function axisLook(page: Page): UPlot.Axis {
  return {
    font: "11px system-ui, sans-serif",
    gap: 6,
    stroke: () => page.colour("muted"),
    grid: { width: 1, stroke: () => page.colour("rule") },
    ticks: { show: false },
  };
}

export function commonOptions(): Pick<UPlot.Options, "legend" | "cursor"> {
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

/** A line that keeps each value for its span. */
function steppedPaths(): UPlot.Series.PathBuilder {
  const { stepped } = uPlot.paths;
  if (stepped === undefined) throw new Error("this build of uPlot draws no steps");
  return stepped({ align: 1, alignGaps: 1 });
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
  return (max - min) / page.data.spanMs > (0.6 * plot.bbox.width) / uPlot.pxRatio;
}

/** The way back is shown only where there is one to go. */
export function offerWholeRun(page: Page, plot: Plot): void {
  const { min = 0, max = page.data.durationMs } = plot.scales["x"] ?? {};
  const button = document.getElementById("whole");
  if (button !== null) button.hidden = min <= 0 && max >= page.data.durationMs;
}
