// @ts-check
/**
 * What is counted, how exactly, and where: the sources on this machine, the rest in a guest, where kernel, rights and
 * limits are the same for everyone.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { boot } from "../../kernel/lab/boot.mjs";
import { LIMITS } from "../../limits.mjs";
import { START_COLUMNS } from "./guest/costs.mjs";
import { READ_COLUMNS } from "./guest/per-read.mjs";
import { countHouse, HOUSE_COLUMNS } from "./house.mjs";
import { straceEnvironment } from "./strace-program.mjs";

const KERNEL = "6.12";
const GUEST = fileURLToPath(new URL("./guest/main.mjs", import.meta.url));
const RESULT = "counts.json"; // what guest/main.mjs leaves

/** Where the tables are. */
export const TABLE_PATH = fileURLToPath(new URL("./README.md", import.meta.url));

/** @typedef {import("./table.d.mts").Section} Section */

/** @type {readonly Section[]} */
export const SECTIONS = [
  // Whole calls of whole rounds; the least that can get worse is a call for each eight reads.
  { name: "reads", columns: READ_COLUMNS, digits: 3, slack: () => 0.05 },
  // A comment more does not make a start take longer. Files, processes and programs are exact.
  {
    name: "starts",
    columns: START_COLUMNS,
    digits: 0,
    slack: (was, column) => (column.startsWith("KiB") ? was * 0.05 : 0),
  },
  { name: "house", columns: HOUSE_COLUMNS, digits: 0, slack: () => 0 },
];

/**
 * Counts everything anew. Needs a build.
 * @returns {Promise<Map<string, Map<string, number[]>>>} rows by section
 */
export async function measure() {
  const outputDir = mkdtempSync(join(tmpdir(), "erofs-nbd-count-"));
  try {
    const { exitCode, stderr } = await boot({
      kernel: KERNEL,
      command: [process.execPath, GUEST],
      env: await straceEnvironment(),
      outputDir,
      timeoutMs: LIMITS.countsMs,
    });
    if (exitCode !== 0) throw new Error(`cannot count in kernel ${KERNEL}: ${stderr.trim()}`);
    const { reads, starts } = JSON.parse(readFileSync(join(outputDir, RESULT), "utf8"));
    return new Map([
      ["reads", new Map(reads)],
      ["starts", new Map(starts)],
      ["house", countHouse()],
    ]);
  } finally {
    rmSync(outputDir, { recursive: true, force: true });
  }
}
