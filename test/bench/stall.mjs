// @ts-check
/**
 * How long reads stand still when the worker that serves them is killed, on a real kernel, run by hand:
 *
 *   npm run bench:stall -- [--kernel 6.1|6.12|7.2] [--kills N] [--io-timeout MS] [--depth N] [--block BYTES]
 *
 * Readers past the page cache keep DEPTH reads going all the time and compare every block; the serving worker is killed
 * at random moments, N times. Prints one JSON line: reads, quantiles, the longest, and what `status` counted.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { boot } from "../kernel/lab/boot.mjs";

const { values } = parseArgs({
  options: {
    kernel: { type: "string", default: "6.1" },
    kills: { type: "string", default: "20" },
    "io-timeout": { type: "string", default: "1000" },
    depth: { type: "string", default: "8" },
    block: { type: "string", default: "4096" },
  },
});
const CLI = fileURLToPath(new URL("../../dist/src/cli/main.js", import.meta.url));
const READER = fileURLToPath(new URL("../helpers/direct-reader.mjs", import.meta.url));

process.exit(process.env["EROFS_NBD_LAB_KERNEL"] === undefined ? await bootAndMeasure() : await measure());

async function bootAndMeasure() {
  const kernel = /** @type {import("../kernel/lab/types.ts").KernelSeries} */ (values.kernel);
  const { exitCode } = await boot({
    kernel,
    command: [process.execPath, fileURLToPath(import.meta.url), ...process.argv.slice(2)],
    timeoutMs: 120_000 + Number(values.kills) * (Number(values["io-timeout"]) + 6000),
    onOutput: (stream, text) => process[stream].write(text),
  });
  return exitCode;
}

async function measure() {
  const directory = mkdtempSync(join(tmpdir(), "stall-"));
  const image = join(directory, "image");
  writeFileSync(image, randomBytes(32 << 20));
  const device = cli("attach", "--io-timeout", values["io-timeout"], image).trim();
  const reader = spawn(process.execPath, [READER, device, image, values.depth, values.block], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, UV_THREADPOOL_SIZE: values.depth },
  });
  const lines = createInterface(reader.stdout)[Symbol.asyncIterator]();
  await lines.next();
  let onTheWire = 0;
  for (let kill = 0; kill < Number(values.kills); kill += 1) {
    await sleep(500 + Math.random() * 1500);
    const [{ index, links }] = JSON.parse(cli("status", "--json"));
    if (Number(readFileSync(`/sys/block/nbd${index}/inflight`, "utf8").trim().split(/\s+/)[0]) > 0)
      onTheWire += 1;
    process.kill(links[0].workerPid, "SIGKILL");
    while (JSON.parse(cli("status", "--json"))[0].counters.reconnects <= kill) await sleep(100);
  }
  reader.stdin.end();
  const report = JSON.parse((await lines.next()).value);
  await once(reader, "close");
  const [{ counters }] = JSON.parse(cli("status", "--json"));
  cli("detach", device);
  rmSync(directory, { recursive: true });
  const { buckets: _, startedAt: __, ...figures } = report;
  process.stdout.write(
    `${JSON.stringify({ ...values, kernel: process.env["EROFS_NBD_LAB_KERNEL"], killsWithReadsOnTheWire: onTheWire, ...figures, reconnects: counters.reconnects, failedFailovers: counters.failedFailovers })}\n`,
  );
  return report.errors === 0 && report.mismatches === 0 && counters.failedFailovers === 0 ? 0 : 1;
}

/** @param {string[]} args */
function cli(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], { encoding: "utf8" });
  if (status !== 0) throw new Error(`erofs-nbd ${args.join(" ")} ended with ${status}: ${stderr}`);
  return stdout;
}

/** Bytes that no two blocks share. @param {number} length */
function randomBytes(length) {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}
