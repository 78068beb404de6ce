// @ts-check
/**
 * `npm run pictures`: makes every picture of the documents anew, from what lies beside this file. No network, no
 * browser.
 *
 * Recordings (*.cast, asciicast version 2) and figures (*.json) come from real runs; each says when and by which
 * command.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { architecture } from "./architecture.mjs";
import { chaosPlot } from "./chaos-plot.mjs";
import { comparison, stalls } from "./charts.mjs";
import { terminal } from "./terminal.mjs";

/** @param {string} name */
const beside = (name) => new URL(name, import.meta.url);
/** @param {string} name */
const read = (name) => readFileSync(beside(name), "utf8");

/** @type {Record<string, () => string>} */
const PICTURES = {
  "architecture.svg": architecture,
  "benchmarks.svg": () => comparison(JSON.parse(read("benchmarks.json")).serve),
  "chaos-report.svg": () => chaosPlot(JSON.parse(read("chaos-run.json"))),
  "demo.svg": () => terminal(read("demo.cast")),
  "stalls.svg": () => stalls(JSON.parse(read("benchmarks.json")).stalls),
  "status-watch.svg": () => terminal(read("status-watch.cast")),
};

for (const [name, draw] of Object.entries(PICTURES)) {
  writeFileSync(beside(name), draw());
  process.stdout.write(`docs/pictures/${name}\n`);
}
