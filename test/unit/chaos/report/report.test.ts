/**
 * The chaos report: holds everything of the run, loads nothing, escapes what it is told, and its script runs.
 *
 * How it looks was judged by eye; here is what can be decided without one.
 */
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import type { PageData } from "../../../../src/chaos/report/page-data.ts";
import { renderReport } from "../../../../src/chaos/report/report.ts";
import type { ChaosRun } from "../../../../src/chaos/run.ts";
import { printable } from "../../../../src/text/printable.ts";
import { bundlePageScript } from "../../../../tools/page-script.mjs";
import { runPage } from "./report-browser.ts";
import { sampleRun } from "./report-sample.ts";

const PAGE_SCRIPT = await bundlePageScript();
const render = (run: ChaosRun): string => renderReport(run, PAGE_SCRIPT);

const HOSTILE = `</script><script>alert(1)</script><!-- "'\`&amp; \n\r\0\u2028\u202e <img src=x onerror=alert(1)> ]]>`;

/** Every text of a run is one that wants out. */
function hostileRun(): ChaosRun {
  const run = sampleRun({ faults: 12, durationMs: 20_000, isFailed: true });
  return {
    ...run,
    version: HOSTILE,
    kernel: HOSTILE,
    nodeVersion: HOSTILE,
    device: HOSTILE,
    image: `/srv/${HOSTILE}`,
    startedAt: HOSTILE,
    problems: [HOSTILE],
    faults: run.faults.map((fault) => ({
      ...fault,
      label: HOSTILE,
      outcome: fault.outcome && { ...fault.outcome, cause: HOSTILE },
    })),
  };
}

interface Tag {
  readonly name: string;
  readonly attributes: string;
}

const VOID = ["meta", "link", "br", "wbr", "img", "input", "hr", "!doctype"];
const FOREIGN = ["path", "use", "line"];

/** Reads the page as a parser does that knows text, raw text, tags and quotes; throws where they do not nest. */
function parse(html: string): { tags: Tag[]; scripts: string[] } {
  const tags: Tag[] = [];
  const scripts: string[] = [];
  const open: string[] = [];
  const pattern = /<(\/?)([a-z!][\w-]*)((?:\s+[\w:-]+(?:=(?:"[^"<>]*"|[^\s"'<>=`]+))?)*)\s*(\/?)>/giy;
  for (let at = html.indexOf("<"); at >= 0; at = html.indexOf("<", at)) {
    pattern.lastIndex = at;
    const found = pattern.exec(html);
    if (found === null) throw new Error(`no tag at ${at}: ${html.slice(at, at + 80)}`);
    const [text, slash, rawName = "", attributes = "", selfClosing] = found;
    const name = rawName.toLowerCase();
    at += text.length;
    if (slash === "/") {
      if (open.pop() !== name) throw new Error(`</${name}> at ${at} closes nothing`);
      continue;
    }
    tags.push({ name, attributes });
    if (selfClosing === "/" && !FOREIGN.includes(name)) throw new Error(`<${name}/> at ${at}`);
    if (VOID.includes(name) || selfClosing === "/") continue;
    open.push(name);
    if (name !== "script" && name !== "style") continue;
    const end = html.toLowerCase().indexOf(`</${name}`, at);
    const content = html.slice(at, end);
    if (name === "script") scripts.push(content);
    at = end;
  }
  if (open.length > 0) throw new Error(`left open: ${open.join(" ")}`);
  return { tags, scripts };
}

function dataOf(html: string): PageData {
  return JSON.parse(parse(html).scripts[0] ?? "") as PageData;
}

describe.each([
  ["a run that passed", sampleRun()],
  ["a run that failed", sampleRun({ isFailed: true, faults: 90 })],
  ["a run of one kind", sampleRun({ faults: 6, durationMs: 20_000, what: ["worker"] })],
  ["a run without faults", sampleRun({ faults: 0, durationMs: 5_000 })],
  [
    "a run that ended immediately",
    { ...sampleRun({ faults: 0, durationMs: 5_000 }), latency: [], durationMs: 0 },
  ],
  ["a run full of hostile texts", hostileRun()],
])("renderReport, %s", (_, run) => {
  const html = render(run);

  test("is one well-formed page with three scripts: data, library, its own", () => {
    const { tags, scripts } = parse(html);
    expect(scripts).toHaveLength(3);
    expect(tags.filter(({ name }) => name === "h1")).toHaveLength(1);
    expect(tags.some(({ name, attributes }) => name === "meta" && attributes.includes('"viewport"'))).toBe(
      true,
    );
  });

  test("loads nothing", () => {
    const { tags } = parse(html);
    expect(tags.map(({ name }) => name)).not.toEqual(
      expect.arrayContaining([expect.stringMatching(/^(img|iframe|object|embed|video|audio|base|form)$/)]),
    );
    for (const { attributes } of tags) {
      const names = attributes.replace(/"[^"]*"/g, "");
      expect(names).not.toMatch(/\s(?:src|srcset|action|background|ping|on\w+)=/i);
      for (const [, target] of attributes.matchAll(/\shref="([^"]*)"/g))
        expect(target).toMatch(/^(#|data:,$)/);
    }
    expect(html).not.toMatch(
      /@import|@font-face|url\(|\bfetch\(|XMLHttpRequest|importScripts|\bimport\(|sendBeacon/,
    );
    expect(html).toContain("default-src 'none'");
  });

  test("allows its own scripts by their checksums, and no others", () => {
    const { scripts, tags } = parse(html);
    const policy = tags.find(({ attributes }) => attributes.includes("Content-Security-Policy"))?.attributes;
    const hashes = [...(policy ?? "").matchAll(/'sha256-([^']+)'/g)].map(([, hash]) => hash);
    const wanted = scripts.slice(1).map((code) => createHash("sha256").update(code).digest("base64"));
    expect(hashes).toEqual(wanted);
    expect(policy).toMatch(/script-src 'sha256-/);
    expect(/script-src[^;]*unsafe/.test(policy ?? "")).toBe(false);
  });

  test("holds every fault, in the data and in the list", () => {
    const data = dataOf(html);
    expect(data.faults.map(({ label, kind, atMs, outcome }) => ({ label, kind, atMs, outcome }))).toEqual(
      run.faults.map(({ label, kind, atMs, outcome }) => ({
        label: printable(label),
        kind,
        atMs,
        outcome: outcome && { ...outcome, cause: printable(outcome.cause) },
      })),
    );
    const rows = parse(html).tags.filter(
      ({ name, attributes }) => name === "a" && /data-fault=/.test(attributes),
    );
    expect(rows).toHaveLength(run.faults.length);
  });

  test("has one column entry for each span, and none where no read ended", () => {
    const data = dataOf(html);
    for (const column of [data.at, data.p50, data.p99, data.max, data.reads, data.rate]) {
      expect(column).toHaveLength(run.latency.length);
    }
    run.latency.forEach(({ reads }, index) => {
      expect(data.max[index] === null).toBe(reads === 0);
    });
    for (const value of [...data.p50, ...data.max].filter((each) => each !== null)) {
      expect(value).toBeGreaterThanOrEqual(data.lowMs);
      expect(value).toBeLessThanOrEqual(data.highMs);
    }
  });

  test("its script runs and draws each fault twice: in its lane and at its longest read", () => {
    const { drawn, errors } = runPage(html);
    expect(errors).toEqual([]);
    const reads = run.faults.filter((fault) => fault.longestReadMs > 0).length;
    // A bad fault has a ring around each of its shapes.
    const bad = run.faults.filter((fault) => fault.outcome !== null && fault.outcome.result !== "recovered");
    expect(drawn.fills).toBe(run.faults.length + reads);
    expect(drawn.rings).toBe(2 * bad.length);
  });
});

describe("renderReport", () => {
  test("reports what passed in one line", () => {
    const run = sampleRun({ faults: 6, durationMs: 20_000, what: ["worker"] });
    const h1 = /<h1>(.*)<\/h1>/.exec(render(run))?.[1] ?? "";
    expect(h1).toMatch(
      /Passed\..*6\u00a0faults, every byte right, every failover counted; the longest read took/,
    );
    expect(render(run)).not.toContain("What went wrong");
  });

  test("reports what failed, with the problems before the charts", () => {
    const run = sampleRun({ isFailed: true, faults: 90 });
    const html = render(run);
    const h1 = /<h1>(.*)<\/h1>/.exec(html)?.[1] ?? "";
    expect(h1).toMatch(
      /Failed\..*1\u00a0wrong read, 3\u00a0I\/O errors, 2\u00a0uncounted failovers, 2\u00a0faults not recovered/,
    );
    for (const problem of run.problems) expect(html).toContain(`<li>${problem}</li>`);
    expect(html.indexOf("What went wrong")).toBeLessThan(html.indexOf('<div id="latency">'));
  });

  test("gives the command that repeats the run", () => {
    const html = render({ ...sampleRun({ faults: 7, seed: 4711 }), device: "/dev/nbd3" });
    const command = /<code class="command">(.*?)<\/code>/.exec(html)?.[1]?.replace(/<[^>]*>/g, "");
    expect(command).toBe(
      "erofs-nbd chaos /dev/nbd3 --kills 7 --interval 1000 --what worker,hang,link,manager,both,upgrade " +
        "--seed 4711 --depth 8",
    );
  });

  test("turns no hostile text into a tag, a script or a line of its own", () => {
    const html = render(hostileRun());
    expect(html).not.toContain("<script>alert");
    expect(html).not.toContain("<img");
    expect(html).not.toMatch(/[\0\u2028\u202e]/);
    expect(html).toContain("&#60;/script&#62;");
  });

  test("is small: a few hundred faults in five minutes make a third of a megabyte", () => {
    expect(Buffer.byteLength(render(sampleRun()))).toBeLessThan(400_000);
    expect(Buffer.byteLength(render(sampleRun({ faults: 0, durationMs: 5_000 })))).toBeLessThan(120_000);
  });

  test("makes the same page of the same run", () => {
    expect(render(sampleRun())).toBe(render(sampleRun()));
  });

  test("has a script without imports and exports", () => {
    expect(PAGE_SCRIPT).not.toMatch(/\b(import|export|require)\b[^"'`]*["'(]|__vi_|__name\(/);
  });
});
