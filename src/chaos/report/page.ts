/**
 * The page's own script: reads the run from the page, draws the charts, and links them with the table and the list.
 *
 * Runs in the reader's browser only, see report-page-marks.ts: `startPage` may use its arguments and nothing else.
 * Without it the page still holds every number; the charts alone are missing. Never loads anything.
 */
import type { Drawing } from "./page-plots.ts";
import type { Places } from "./page-pointer.ts";
import type { Page, PageData, PageElement, PageWindow, PlotConstructor } from "./page-types.ts";

/** Functions of the other report-page-*.ts files, and the formats that the report itself uses. */
export interface PageParts extends Drawing, Places {
  readonly formatMs: Page["formatMs"];
  readonly formatClock: Page["formatClock"];
  makePlots(page: Page, drawing: Drawing, latencyIn: PageElement, rateIn: PageElement): void;
  fitPlots(page: Page, drawing: Drawing, widthPx: number): void;
  attachPointer(page: Page, places: Places, figure: PageElement, readout: PageElement): void;
  showFault(page: Page, readout: PageElement, index: number, closer: boolean): void;
}

/** Called once, at the end of the page. */
export function startPage(window: PageWindow, uPlot: PlotConstructor, parts: PageParts): void {
  const { document } = window;
  const [figure, latencyIn, rateIn, readout, source] = ["figure", "latency", "rate", "readout", "run"].map(
    (id) => document.getElementById(id),
  );
  if (!figure || !latencyIn || !rateIn || !readout || !source) return;
  const data = JSON.parse(source.textContent ?? "{}") as PageData;
  const root = document.documentElement;
  let colours = new Map<string, string>();
  const page: Page = {
    window,
    uPlot,
    data,
    shapes: new Map(
      [...data.kinds, { kind: "ring", shape: "M-7.5 0A7.5 7.5 0 1 1 7.5 0A7.5 7.5 0 1 1-7.5 0Z" }].map(
        (each) => [each.kind, new window.Path2D(each.shape)],
      ),
    ),
    colour: (name) => {
      const known = colours.get(name) ?? window.getComputedStyle(root).getPropertyValue(`--${name}`).trim();
      colours.set(name, known);
      return known;
    },
    formatMs: parts.formatMs,
    formatClock: parts.formatClock,
    chosen: { kind: undefined, fault: undefined },
    latency: undefined,
    rate: undefined,
  };
  const redraw = () => {
    colours = new Map();
    for (const plot of [page.latency, page.rate]) plot?.redraw(false, true);
  };
  figure.hidden = false;
  parts.makePlots(page, parts, latencyIn, rateIn);
  parts.attachPointer(page, parts, figure, readout);
  new window.ResizeObserver(() => parts.fitPlots(page, parts, latencyIn.clientWidth)).observe(latencyIn);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  linkPaper(window, () => {
    redraw();
    parts.fitPlots(page, parts, latencyIn.clientWidth);
  });
  linkKinds(page, redraw);
  linkFaults(page, (index) => {
    figure.scrollIntoView({ block: "start", behavior: "auto" });
    parts.showFault(page, readout, index, true);
  });
  const whole = document.getElementById("whole");
  whole?.addEventListener("click", () => page.latency?.setScale("x", { min: 0, max: data.durationMs }));
}

/** Print uses the light colours and the sheet's width, and unfolds the list. */
export function linkPaper(window: PageWindow, refit: () => void): void {
  const { documentElement } = window.document;
  const folded: PageElement[] = [];
  window.addEventListener("beforeprint", () => {
    documentElement.dataset["paper"] = "yes";
    for (const details of window.document.querySelectorAll("details")) {
      if (details.open !== true) folded.push(details);
      details.open = true;
    }
    refit();
  });
  window.addEventListener("afterprint", () => {
    documentElement.dataset["paper"] = "no";
    for (const details of folded.splice(0)) details.open = false;
    refit();
  });
}

/** A kind's button in the table shows only that kind, in the chart and in the list; once more shows all. */
export function linkKinds(page: Page, redraw: () => void): void {
  const { document } = page.window;
  const buttons = [...document.querySelectorAll("button[data-kind]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const { kind } = button.dataset;
      page.chosen.kind = page.chosen.kind === kind ? undefined : kind;
      page.chosen.fault = undefined;
      for (const each of buttons) {
        each.setAttribute("aria-pressed", String(each.dataset["kind"] === page.chosen.kind));
      }
      for (const row of document.querySelectorAll("[data-row]")) {
        row.hidden = page.chosen.kind !== undefined && row.dataset["row"] !== page.chosen.kind;
      }
      redraw();
    });
  }
}

/** A moment in the list leads to the chart. */
export function linkFaults(page: Page, show: (index: number) => void): void {
  for (const link of page.window.document.querySelectorAll("a[data-fault]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      show(Number(link.dataset["fault"]));
    });
  }
}
