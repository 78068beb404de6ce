/**
 * Reading the charts by mouse, finger and keyboard: which fault lies under the pointer, the readout that tells about
 * it, zooming with two fingers.
 *
 * Runs in the reader's browser only. uPlot itself does the mouse's cursor and its zoom (drag to zoom, double click for
 * the whole run). All text goes in as text.
 */
import { formatClock, formatMs } from "../format.ts";
import type { PageFault } from "../page-data.ts";
import { laneY, waitY } from "./marks.ts";
import type { Page, Plot } from "./types.ts";

/** Listens on the figure that holds both charts; `readout` is the element that tells. */
export function attachPointer(page: Page, figure: HTMLElement, readout: HTMLElement): void {
  const fingers = new Map<number, number>();
  let pinch: readonly [number, number] | undefined;
  const xIn = (event: PointerEvent, plot: Plot) => event.clientX - plot.over.getBoundingClientRect().left;
  const follow = (event: PointerEvent) => {
    const plot = page.latency;
    if (plot === undefined) return;
    const isFinger = event.pointerType !== "mouse";
    if (isFinger && fingers.has(event.pointerId)) fingers.set(event.pointerId, xIn(event, plot));
    if (fingers.size >= 2 && pinch !== undefined) return pinchTo(page, plot, pinch, [...fingers.values()]);
    const box = plot.over.getBoundingClientRect();
    const left = event.clientX - box.left;
    if (left < -6 || left > box.width + 6) return tell(page, readout, undefined, undefined);
    if (isFinger) for (const each of [plot, page.rate]) each?.setCursor({ left, top: 10 });
    const fault = nearest(page, plot, [left, event.clientY - box.top], isFinger ? 24 : 12);
    tell(page, readout, fault, plot.posToVal(left, "x"));
    if (left > box.width / 2) readout.dataset["side"] = "left";
    else readout.dataset["side"] = "right";
  };
  figure.addEventListener("pointerdown", (event) => {
    const plot = page.latency;
    if (event.pointerType === "mouse" || plot === undefined) return;
    fingers.set(event.pointerId, xIn(event, plot));
    const [first, second] = [...fingers.values()];
    pinch = undefined;
    if (first !== undefined && second !== undefined)
      pinch = [plot.posToVal(first, "x"), plot.posToVal(second, "x")];
    follow(event);
  });
  figure.addEventListener("pointermove", follow);
  for (const end of ["pointerup", "pointercancel"] as const) {
    figure.addEventListener(end, (event) => {
      fingers.delete(event.pointerId);
      pinch = undefined;
    });
  }
  figure.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") tell(page, readout, undefined, undefined);
  });
  figure.addEventListener("keydown", (event) => step(page, readout, event));
}

/** The moments that the fingers took hold of stay under them. */
export function pinchTo(
  page: Page,
  plot: Plot,
  held: readonly [number, number],
  at: readonly number[],
): void {
  const [first = 0, second = 0] = at;
  if (Math.abs(second - first) < 8) return;
  const width = plot.over.getBoundingClientRect().width;
  const msPerPixel = (held[1] - held[0]) / (second - first);
  const span = msPerPixel * width;
  if (!(span >= 4 * page.data.spanMs)) return;
  const min = Math.max(0, held[0] - first * msPerPixel);
  plot.setScale("x", { min, max: Math.min(page.data.durationMs, min + span) });
}

/** The fault nearest to a place in the plotting area (CSS pixels), by lane or by longest read. */
export function nearest(
  page: Page,
  plot: Plot,
  [left, top]: readonly [number, number],
  reachPx: number,
): number | undefined {
  const ratio = uPlot.pxRatio;
  let best: number | undefined;
  let bestSquare = Number.POSITIVE_INFINITY;
  page.data.faults.forEach((fault, index) => {
    if (page.chosen.kind !== undefined && fault.kind !== page.chosen.kind) return;
    const dx = plot.valToPos(fault.atMs, "x") - left;
    if (Math.abs(dx) > reachPx) return;
    const lane = (laneY(page, plot, fault) - plot.bbox.top) / ratio - top;
    const wait = (waitY(page, plot, fault) - plot.bbox.top) / ratio - top;
    const square = dx * dx + (Math.min(Math.abs(lane), Math.abs(wait)) / 3) ** 2;
    if (square >= bestSquare) return;
    best = index;
    bestSquare = square;
  });
  return best;
}

/** Left and right go from fault to fault, Escape shows the whole run again. */
export function step(page: Page, readout: HTMLElement, event: KeyboardEvent): void {
  const { faults, durationMs } = page.data;
  if (event.key === "Escape") page.latency?.setScale("x", { min: 0, max: durationMs });
  const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
  if (by === 0 || faults.length === 0) return;
  event.preventDefault();
  let index = page.chosen.fault ?? (by > 0 ? -1 : faults.length);
  do index += by;
  while (
    page.chosen.kind !== undefined &&
    faults[index] !== undefined &&
    faults[index]?.kind !== page.chosen.kind
  );
  const fault = faults[index];
  if (fault !== undefined) showFault(page, readout, index, false);
}

/** Tells about one fault; with `closer` the charts zoom to the seconds around it. */
export function showFault(page: Page, readout: HTMLElement, index: number, closer: boolean): void {
  const fault = page.data.faults[index];
  const plot = page.latency;
  if (fault === undefined || plot === undefined) return;
  const half = Math.max(8 * page.data.spanMs, 3 * fault.waitMs, 4000);
  const { min = 0, max = page.data.durationMs } = plot.scales["x"] ?? {};
  const isOutside = fault.atMs < min || fault.atMs > max;
  if (closer || isOutside) {
    const from = Math.max(0, Math.min(fault.atMs - half, page.data.durationMs - 2 * half));
    plot.setScale("x", { min: from, max: Math.min(page.data.durationMs, from + 2 * half) });
  }
  readout.dataset["side"] = closer || fault.atMs > (min + max) / 2 ? "left" : "right";
  tell(page, readout, index, fault.atMs);
}

/** Fills the readout: the fault, if there is one, and the reads of that moment. */
export function tell(
  page: Page,
  readout: HTMLElement,
  index: number | undefined,
  atMs: number | undefined,
): void {
  const { data } = page;
  const line = (className: string, ...content: (HTMLElement | string)[]) => {
    const element = document.createElement("p");
    element.className = className;
    element.append(...content);
    return element;
  };
  if (page.chosen.fault !== index) {
    page.chosen.fault = index;
    requestAnimationFrame(() => page.latency?.redraw(false, false));
  }
  readout.dataset["idle"] = atMs === undefined ? "yes" : "no";
  if (atMs === undefined) {
    readout.replaceChildren(line("hint", readout.dataset["hint"] ?? ""));
    return;
  }
  const fault = index === undefined ? undefined : data.faults[index];
  readout.replaceChildren(
    ...(fault === undefined ? [] : faultLines(line, fault)),
    line("reads", ...momentText(page, atMs)),
  );
}

export function faultLines(
  line: (className: string, ...content: (HTMLElement | string)[]) => HTMLElement,
  fault: PageFault,
): HTMLElement[] {
  const { outcome } = fault;
  const words = { takeover: "takeover", reconnect: "reconnect", none: "no failover needed" };
  const answer =
    outcome === null
      ? "the run ended before an answer came"
      : outcome.result === "recovered"
        ? words[outcome.level]
        : outcome.result === "failed"
          ? `${words[outcome.level]} failed`
          : "no answer came";
  const name = document.createElement("b");
  name.className = fault.kind;
  name.textContent = fault.kind;
  const stood =
    outcome === null || outcome.level === "none" ? "" : `, stood still ${formatMs(outcome.stallMs)}`;
  return [
    line("what", `${formatClock(fault.atMs, 1)}  `, name, `  ${fault.label}`),
    line(fault.bad ? "bad" : "answer", `${answer}${stood}; longest read ${formatMs(fault.waitMs)}`),
    ...(outcome === null || outcome.cause === "" ? [] : [line("cause", outcome.cause)]),
  ];
}

export function momentText(page: Page, atMs: number): string[] {
  const { data } = page;
  const index = data.at.findLastIndex((begin) => begin <= atMs);
  const reads = data.reads[index];
  if (reads === undefined) return [formatClock(atMs, 1)];
  const moment = `${formatClock(data.at[index] ?? 0, data.spanMs % 1000 === 0 ? 0 : 1)}  `;
  if (reads === 0) return [`${moment}no read ended in these ${formatMs(data.spanMs)}`];
  const times = [
    `slowest ${formatMs(data.max[index])}`,
    `p99 ${formatMs(data.p99[index])}`,
    `median ${formatMs(data.p50[index])}`,
    `${(data.rate[index] ?? 0).toFixed(1)} MiB/s`,
  ];
  return [moment + times.join(" · ")];
}
