// @ts-check
/**
 * Reads a mounted tree over and over, with the page cache dropped before each pass, and compares every file's checksum
 * with the manifest. Prints "reading", then, when its stdin ends, one JSON line.
 */
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

const [, , root = "", manifest = ""] = process.argv;
const files = Object.entries(
  /** @type {Record<string, string>} */ (JSON.parse(readFileSync(manifest, "utf8"))),
);
const report = { passes: 0, files: 0, errors: 0, mismatches: 0 };
let stopping = false;

process.stdin.on("data", () => {});
process.stdin.once("end", () => {
  stopping = true;
});
process.stdout.write("reading\n");
while (!stopping) {
  writeFileSync("/proc/sys/vm/drop_caches", "3");
  for (const [name, wanted] of files) {
    if (stopping) break;
    try {
      const content = await readFile(join(root, name));
      report.files += 1;
      if (createHash("sha256").update(content).digest("hex") !== wanted) report.mismatches += 1;
    } catch {
      report.errors += 1;
    }
  }
  if (!stopping || report.passes === 0) report.passes += 1;
}
process.stdout.write(`${JSON.stringify(report)}\n`);
