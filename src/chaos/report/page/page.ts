/**
 * The page's own script: reads the run from the page, draws the charts, and links them with the table and the list.
 *
 * Runs in the reader's browser only. The build makes one script of this folder (tools/page-script.mjs), and the report
 * contains it. Without the script the page has no charts, but every number. Never loads anything.
 */
import type { PageData } from "../page-data.ts";
import { fitPlots, makePlots } from "./plots.ts";
import { attachPointer, showFault } from "./pointer.ts";
import type { Page } from "./types.ts";

/** Called once, at the end of the page. */
function startPage(): void {
  const [figure, latencyIn, rateIn, readout, source] = ["figure", "latency", "rate", "readout", "run"].map(
    (id) => document.getElementById(id),
  );
  if (!figure || !latencyIn || !rateIn || !readout || !source) return;
  const data = JSON.parse(source.textContent ?? "{}") as PageData;
  const root = document.documentElement;
  let colours = new Map<string, string>();
  const page: Page = {
    data,
    shapes: new Map(
      [...data.kinds, { kind: "ring", shape: "M-7.5 0A7.5 7.5 0 1 1 7.5 0A7.5 7.5 0 1 1-7.5 0Z" }].map(
        (each) => [each.kind, new Path2D(each.shape)],
      ),
    ),
    colour: (name) => {
      const known = colours.get(name) ?? getComputedStyle(root).getPropertyValue(`--${name}`).trim();
      colours.set(name, known);
      return known;
    },
    chosen: { kind: undefined, fault: undefined },
    latency: undefined,
    rate: undefined,
  };
  const redraw = () => {
    colours = new Map();
    for (const plot of [page.latency, page.rate]) plot?.redraw(false, true);
  };
  figure.hidden = false;
  makePlots(page, latencyIn, rateIn);
  attachPointer(page, figure, readout);
  new ResizeObserver(() => fitPlots(page, latencyIn.clientWidth)).observe(latencyIn);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  linkPaper(() => {
    redraw();
    fitPlots(page, latencyIn.clientWidth);
  });
  linkKinds(page, redraw);
  linkFaults((index) => {
    figure.scrollIntoView({ block: "start", behavior: "auto" });
    showFault(page, readout, index, true);
  });
  const whole = document.getElementById("whole");
  whole?.addEventListener("click", () => page.latency?.setScale("x", { min: 0, max: data.durationMs }));
}

/** Print uses the light colours and the sheet's width, and unfolds the list. */
function linkPaper(refit: () => void): void {
  const { documentElement } = document;
  const folded: HTMLDetailsElement[] = [];
  window.addEventListener("beforeprint", () => {
    documentElement.dataset["paper"] = "yes";
    for (const details of document.querySelectorAll("details")) {
      if (!details.open) folded.push(details);
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
function linkKinds(page: Page, redraw: () => void): void {
  const buttons = [...document.querySelectorAll<HTMLElement>("button[data-kind]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const { kind } = button.dataset;
      page.chosen.kind = page.chosen.kind === kind ? undefined : kind;
      page.chosen.fault = undefined;
      for (const each of buttons) {
        each.setAttribute("aria-pressed", String(each.dataset["kind"] === page.chosen.kind));
      }
      for (const row of document.querySelectorAll<HTMLElement>("[data-row]")) {
        row.hidden = page.chosen.kind !== undefined && row.dataset["row"] !== page.chosen.kind;
      }
      redraw();
    });
  }
}

/** A moment in the list leads to the chart. */
function linkFaults(show: (index: number) => void): void {
  for (const link of document.querySelectorAll<HTMLElement>("a[data-fault]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      show(Number(link.dataset["fault"]));
    });
  }
}

startPage();
