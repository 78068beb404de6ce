/**
 * Draws the faults onto the latency chart: a lane per kind above it, a stem down to each fault's longest read, and the
 * fault's shape there. Filled is a takeover, open a reconnect, ringed one that was not recovered.
 *
 * Runs in the reader's browser only, called by uPlot's hooks with a ready canvas. All lengths are canvas pixels: CSS
 * pixels times `uPlot.pxRatio`.
 */
import type { PageFault } from "../page-data.ts";
import type { Page, Plot } from "./types.ts";

/** CSS pixels that one lane takes. */
export function laneHeight(): number {
  return 15;
}

/** The faults that are shown, least important first, so that the bad and the chosen ones lie on top. */
export function faultsToDraw(page: Page): PageFault[] {
  const { kind, fault: index = -1 } = page.chosen;
  const chosen = page.data.faults[index];
  const rank = (fault: PageFault) => (fault === chosen ? 2 : fault.bad ? 1 : 0);
  const shown = page.data.faults.filter((fault) => kind === undefined || fault.kind === kind);
  return [0, 1, 2].flatMap((each) => shown.filter((fault) => rank(fault) === each));
}

/** Before anything else: faint lanes, named at the left, and the stems. */
export function drawLanes(page: Page, plot: Plot): void {
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  const lane = laneHeight() * ratio;
  ctx.save();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  ctx.lineWidth = ratio;
  page.data.kinds.forEach(({ kind }, index) => {
    const y = bbox.top - (page.data.kinds.length - index - 0.5) * lane - 14 * ratio;
    ctx.globalAlpha = page.chosen.kind === undefined || page.chosen.kind === kind ? 1 : 0.35;
    ctx.strokeStyle = page.colour("rule");
    ctx.beginPath();
    ctx.moveTo(bbox.left, Math.round(y) + 0.5);
    ctx.lineTo(bbox.left + bbox.width, Math.round(y) + 0.5);
    ctx.stroke();
    ctx.fillStyle = page.colour(kind);
    ctx.fillText(kind, bbox.left - 8 * ratio, y);
  });
  ctx.restore();
}

/** A thin line from the lane down to the longest read: it marks the moment, and hangs the shape from its lane. */
export function drawStems(page: Page, plot: Plot): void {
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  const faults = faultsToDraw(page);
  const seen = faults.filter((fault) => isSeen(page, plot, fault)).length;
  const crowd = Math.min(1, bbox.width / ratio / Math.max(1, seen) / 7);
  ctx.save();
  ctx.lineWidth = ratio;
  for (const fault of faults) {
    if (!isSeen(page, plot, fault)) continue;
    const x = Math.round(plot.valToPos(fault.atMs, "x", true)) + 0.5;
    const isChosen = page.data.faults[page.chosen.fault ?? -1] === fault;
    // More stems than pixels would only tint the area.
    ctx.globalAlpha = isChosen || fault.bad ? 1 : crowd < 0.1 ? 0 : 0.04 + 0.46 * crowd;
    ctx.strokeStyle = page.colour(fault.bad ? "bad" : fault.kind);
    ctx.beginPath();
    ctx.moveTo(x, laneY(page, plot, fault));
    ctx.lineTo(x, isChosen || fault.bad ? bbox.top + bbox.height : waitY(page, plot, fault));
    ctx.stroke();
    drawWait(page, plot, fault, x);
  }
  ctx.restore();
}

/** How long that read took, along the axis of time as well: from the fault to where the read ended. */
export function drawWait(page: Page, plot: Plot, fault: PageFault, x: number): void {
  const { ctx, bbox } = plot;
  const end = Math.min(bbox.left + bbox.width, plot.valToPos(fault.atMs + fault.waitMs, "x", true));
  if (fault.waitMs <= 0 || end - x < 4 * uPlot.pxRatio) return;
  const y = Math.round(waitY(page, plot, fault)) + 0.5;
  ctx.globalAlpha = 1;
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(end, y);
  ctx.stroke();
}

/** After the lines: the shapes, in their lanes and at their longest reads. */
export function drawShapes(page: Page, plot: Plot): void {
  const { bbox } = plot;
  const ratio = uPlot.pxRatio;
  const faults = faultsToDraw(page).filter((fault) => isSeen(page, plot, fault));
  const room = bbox.width / ratio / Math.max(1, faults.length / Math.max(1, page.data.kinds.length));
  const size = Math.min(0.9, Math.max(0.55, room / 11));
  for (const fault of faults) {
    const x = plot.valToPos(fault.atMs, "x", true);
    drawShape(page, plot, fault, x, laneY(page, plot, fault), size);
    if (fault.waitMs > 0) drawShape(page, plot, fault, x, waitY(page, plot, fault), size);
  }
}

export function drawShape(
  page: Page,
  plot: Plot,
  fault: PageFault,
  x: number,
  y: number,
  size: number,
): void {
  const { ctx } = plot;
  const shape = page.shapes.get(fault.kind);
  if (shape === undefined) return;
  const ratio = uPlot.pxRatio;
  const isChosen = page.data.faults[page.chosen.fault ?? -1] === fault;
  const scale = ratio * (isChosen ? 1.25 : size);
  ctx.save();
  ctx.translate(x, y);
  ctx.scale(scale, scale);
  // A rim in the paper's colour separates neighbours, as long as there is room for it.
  if (size > 0.6 || isChosen) {
    ctx.strokeStyle = page.colour("paper");
    ctx.lineWidth = 2.4;
    ctx.stroke(shape);
  }
  const isOpen = fault.outcome === null || fault.outcome.level !== "takeover";
  ctx.fillStyle = page.colour(isOpen ? "paper" : fault.kind);
  ctx.fill(shape);
  ctx.strokeStyle = page.colour(fault.kind);
  ctx.lineWidth = 1.5;
  ctx.stroke(shape);
  ctx.restore();
  if (!fault.bad && !isChosen) return;
  ctx.save();
  ctx.strokeStyle = page.colour(fault.bad ? "bad" : "ink");
  const ring = page.shapes.get("ring");
  ctx.translate(x, y);
  ctx.scale(1.15 * ratio, 1.15 * ratio);
  ctx.lineWidth = fault.bad ? 2 : 1.2;
  if (ring !== undefined) ctx.stroke(ring);
  ctx.restore();
}

/** A dashed line where the slowest read lay before the first fault. */
export function drawUsual(page: Page, plot: Plot): void {
  const { usualMs } = page.data;
  if (usualMs === null) return;
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  const y = Math.round(plot.valToPos(usualMs, "y", true)) + 0.5;
  ctx.save();
  ctx.strokeStyle = page.colour("ink");
  ctx.globalAlpha = 0.75;
  ctx.lineWidth = ratio;
  ctx.setLineDash([5 * ratio, 4 * ratio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

export function isSeen(page: Page, plot: Plot, fault: PageFault): boolean {
  const { min = 0, max = page.data.durationMs } = plot.scales["x"] ?? {};
  return fault.atMs >= min && fault.atMs <= max;
}

/** Where the fault's lane runs, in canvas pixels from the canvas's top. */
export function laneY(page: Page, plot: Plot, fault: PageFault): number {
  const ratio = uPlot.pxRatio;
  const index = page.data.kinds.findIndex(({ kind }) => kind === fault.kind);
  return plot.bbox.top - (page.data.kinds.length - index - 0.5) * laneHeight() * ratio - 14 * ratio;
}

/** Where the fault's longest read lies, in canvas pixels; the chart's bottom if there was none. */
export function waitY(page: Page, plot: Plot, fault: PageFault): number {
  if (fault.waitMs <= 0) return plot.bbox.top + plot.bbox.height;
  const inside = Math.min(page.data.highMs, Math.max(page.data.lowMs, fault.waitMs));
  return plot.valToPos(inside, "y", true);
}
