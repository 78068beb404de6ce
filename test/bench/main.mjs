// @ts-check
/**
 * `npm run bench`: our `serve` against nbdkit's file plugin, nbd-server and qemu-nbd, on this machine, now.
 *
 * One client (qemu-img bench) reads the same file, which lies in the page cache, from each server in turn; the rounds
 * are interleaved, so that whatever else the machine does hits all of them. Prints medians, and ratios to nbdkit:
 * those can be compared between machines, the figures themselves cannot. Asserts nothing. Needs a build.
 */
import { execFile } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import { ourServer, SERVERS, start } from "./servers.mjs";

const USAGE = `usage: npm run bench -- [--rounds N] [--only WORD] [--against WORD]

  --rounds N       interleaved rounds, default 9 (about two minutes)
  --only WORD      only the loads whose names have this word, such as "depth 32" or MiB
  --against WORD   only the servers whose names have this word, beside our own and nbdkit
  --before PATH    another build's dist/src/cli/main.cjs as a further server: what a change is worth
`;
const IMAGE_BYTES = 128 * 1024 * 1024;
const REFERENCE = "nbdkit file";

/** Short runs and many of them: what disturbs the machine for a second must not decide. */
const LOADS = [
  { name: "4 KiB, depth 1", sizeBytes: 4096, depth: 1, requests: 8000 },
  { name: "4 KiB, depth 32", sizeBytes: 4096, depth: 32, requests: 20_000 },
  { name: "128 KiB, depth 8", sizeBytes: 128 * 1024, depth: 8, requests: 4000 },
  { name: "1 MiB, depth 8", sizeBytes: 1024 * 1024, depth: 8, requests: 600 },
];
const CLIENT_LIMIT_MS = 20_000;
const run = promisify(execFile);

/** @typedef {import("./servers.mjs").RunningServer} RunningServer */
/** @typedef {typeof LOADS[number]} Load */
/** @typedef {{ perSecond: number, cpuMs: number }} Sample */

/**
 * One run of the client.
 * @param {RunningServer} server
 * @param {Load} load
 * @returns {Promise<Sample>}
 */
async function measure(server, load) {
  const cpuBeforeMs = await server.cpuMs();
  const { stdout } = await run(
    "qemu-img",
    ["bench", "-f", "raw", "-t", "none"].concat([
      "-c",
      `${load.requests}`,
      "-d",
      `${load.depth}`,
      "-s",
      `${load.sizeBytes}`,
      server.uri,
    ]),
    { timeout: CLIENT_LIMIT_MS },
  );
  const cpuMs = (await server.cpuMs()) - cpuBeforeMs;
  const seconds = Number(/Run completed in ([\d.]+) seconds/.exec(stdout)?.[1]);
  if (!(seconds > 0)) throw new Error(`cannot read what qemu-img bench says: ${stdout}`);
  return { perSecond: load.requests / seconds, cpuMs };
}

/** @param {readonly number[]} values */
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/**
 * The median of the ratios of one round's pair: steadier than the ratio of the medians on a machine that others use.
 * @param {readonly Sample[]} samples
 * @param {readonly Sample[]} reference
 */
function rateRatio(samples, reference) {
  return median(
    samples.map((sample, round) => sample.perSecond / (reference[round]?.perSecond ?? Number.NaN)),
  );
}

/**
 * All rounds together: the kernel counts in ticks of 10 ms, too coarse for one.
 * @param {readonly Sample[]} samples
 * @param {number} requests of one round
 */
function cpuUs(samples, requests) {
  return (samples.reduce((sum, sample) => sum + sample.cpuMs, 0) * 1000) / (requests * samples.length);
}

/**
 * @param {Load} load
 * @param {ReadonlyMap<string, Sample[]>} results by server
 */
function table(load, results) {
  const reference = results.get(REFERENCE) ?? [];
  const lines = [`\n${load.name}`, row(["", "requests/s", "ratio", "CPU µs/request", "ratio"])];
  for (const [name, samples] of results) {
    const cost = cpuUs(samples, load.requests);
    lines.push(
      row([
        name,
        median(samples.map((sample) => sample.perSecond)).toFixed(0),
        rateRatio(samples, reference).toFixed(2),
        cost.toFixed(1),
        (cost / cpuUs(reference, load.requests)).toFixed(2),
      ]),
    );
  }
  return lines.join("\n");
}

/** @param {readonly string[]} cells */
function row(cells) {
  const [first = "", ...rest] = cells;
  return `  ${first.padEnd(18)}${rest.map((cell) => cell.padStart(15)).join("")}`;
}

/** @param {string} path */
function writeImage(path) {
  const fd = openSync(path, "w");
  const piece = Buffer.alloc(1024 * 1024);
  for (let at = 0; at < IMAGE_BYTES; at += piece.length) writeSync(fd, randomFillSync(piece));
  closeSync(fd);
}

/**
 * @param {readonly RunningServer[]} servers
 * @param {readonly Load[]} loads
 * @param {number} rounds
 */
async function compare(servers, loads, rounds) {
  for (const load of loads) {
    // A short run first: V8 compiles, the others fill their pools.
    for (const server of servers) await measure(server, { ...load, requests: load.requests });
    /** @type {Map<string, Sample[]>} */
    const results = new Map(servers.map((server) => [server.name, []]));
    for (let round = 0; round < rounds; round += 1) {
      // Each round begins with another server.
      const turn = round % servers.length;
      for (const server of [...servers.slice(turn), ...servers.slice(0, turn)])
        results.get(server.name)?.push(await measure(server, load));
    }
    process.stdout.write(`${table(load, results)}\n`);
  }
}

async function main() {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "9" },
      only: { type: "string", default: "" },
      against: { type: "string", default: "" },
      before: { type: "string", multiple: true, default: [] },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return void process.stdout.write(USAGE);
  const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-bench-"));
  /** @type {RunningServer[]} */
  const servers = [];
  try {
    const image = join(directory, "image");
    writeImage(image);
    const chosen = SERVERS.filter((server, index) => index < 2 || server.name.includes(values.against));
    for (const [index, program] of values.before.entries())
      chosen.push(ourServer(`before ${index + 1}`, program));
    for (const server of chosen) servers.push(await start(server, image, directory));
    await compare(
      servers,
      LOADS.filter((load) => load.name.includes(values.only)),
      Number(values.rounds),
    );
  } finally {
    for (const server of servers) await server.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}

await main();
