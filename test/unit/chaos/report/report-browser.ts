/**
 * As much of a browser as the report's script needs to run: every object answers to everything, the canvas counts.
 *
 * Not a test. uPlot itself is replaced by one that calls the hooks it was given, because the real one needs a canvas
 * that measures and paints; it was looked at in a browser.
 */
import { createContext, runInContext } from "node:vm";

export interface Drawn {
  /** Shapes filled, and rings drawn around some. */
  fills: number;
  rings: number;
}

interface Options {
  readonly hooks: Record<string, readonly ((plot: object, scale?: string) => void)[] | undefined>;
  readonly series: readonly Record<string, unknown>[];
  readonly scales: Record<string, { range?: (plot: object, min: number, max: number) => [number, number] }>;
}

/** Runs the page's own script, the third of the page's, over its data, the first. */
export function runPage(html: string): { drawn: Drawn; errors: unknown[] } {
  const [data = "", , code = ""] = [...html.matchAll(/<script[^>]*>([\s\S]*?)<\/script>/g)].map(
    ([, text]) => text,
  );
  const drawn: Drawn = { fills: 0, rings: 0 };
  const errors: unknown[] = [];
  const window = fakeWindow(data);
  const context = createContext({ ...window, window, uPlot: fakePlot(drawn) });
  try {
    runInContext(code, context);
  } catch (error) {
    errors.push(error);
  }
  return { drawn, errors };
}

function element(more: object = {}): object {
  return {
    dataset: {},
    style: {},
    hidden: true,
    clientWidth: 358,
    addEventListener: () => undefined,
    setAttribute: () => undefined,
    replaceChildren: () => undefined,
    getBoundingClientRect: () => ({ left: 60, top: 0, width: 290, height: 300 }),
    ...more,
  };
}

function fakeWindow(data: string): object {
  const elements: Record<string, object> = { run: element({ textContent: data }) };
  for (const id of ["figure", "latency", "rate", "readout", "whole"]) elements[id] = element();
  return {
    document: {
      documentElement: element(),
      getElementById: (id: string) => elements[id] ?? null,
      createElement: () => element({ append: () => undefined }),
      querySelectorAll: () => [element()],
    },
    devicePixelRatio: 1,
    Path2D: class {
      readonly data: string;
      constructor(path: string) {
        this.data = path;
      }
    },
    ResizeObserver: class {
      observe(): void {}
    },
    getComputedStyle: () => ({ getPropertyValue: (name: string) => ` ${name} ` }),
    matchMedia: () => ({ matches: false, addEventListener: () => undefined }),
    addEventListener: () => undefined,
    requestAnimationFrame: () => undefined,
  };
}

/** Fills of a path are shapes; strokes of a path wider than all shapes are rings. */
function countingCanvas(drawn: Drawn): object {
  const known: Record<string, unknown> = {
    fill: (path?: unknown) => {
      if (path !== undefined) drawn.fills += 1;
    },
    stroke: (path?: { readonly data: string }) => {
      if (path?.data.startsWith("M-7.5")) drawn.rings += 1;
    },
  };
  return new Proxy(known, {
    get: (target, name) => (name in target ? target[String(name)] : () => undefined),
  });
}

function fakePlot(drawn: Drawn): object {
  class FakePlot {
    static readonly pxRatio = 1;
    static readonly paths = { stepped: () => () => undefined };
    readonly ctx = countingCanvas(drawn);
    readonly over = element();
    readonly bbox = { left: 60, top: 100, width: 290, height: 250 };
    readonly scales: Record<string, { min: number; max: number }> = {};
    constructor(options: Options, data: readonly (readonly (number | null)[])[]) {
      const [times = []] = data;
      if (data.length !== options.series.length) throw new Error("one column of data for each series");
      const [min, max] = options.scales["x"]?.range?.(this, times[0] ?? 0, times.at(-1) ?? 0) ?? [0, 0];
      this.scales["x"] = { min, max };
      for (const name of ["setScale", "drawClear", "drawAxes", "drawSeries", "draw"]) {
        for (const hook of options.hooks[name] ?? []) hook(this, "x");
      }
      for (const series of options.series.slice(1)) {
        for (const look of [series["stroke"], series["fill"]]) if (typeof look === "function") look(this);
      }
    }
    valToPos(value: number): number {
      return value;
    }
    setScale(): void {}
    setSize(): void {}
    redraw(): void {}
  }
  return FakePlot;
}
