// @ts-check
/**
 * The demo's story, told on a kernel that has nbd: node story.mjs IMAGE MANIFEST, as root.
 *
 * Everything is done with the command line, as a user would; two readers check every byte meanwhile: one walks the
 * mounted tree and compares checksums, one reads random blocks of the device past the page cache, eight at a time.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const [, , image = "", manifest = ""] = process.argv;
const here = (/** @type {string} */ path) => fileURLToPath(new URL(path, import.meta.url));
const CLI = here("../../dist/src/cli/main.cjs");
const BLOCK_READER = here("../../test/helpers/images/direct-reader.mjs");
const TREE_READER = here("./tree-reader.mjs");
const KILLS = 5;
const DEPTH = 8;
const BUCKET_MS = 250;

const colours = process.stdout.isTTY === true || process.env["DEMO_COLOURS"] === "1";
const paint = (/** @type {string} */ code) => (/** @type {string | number} */ text) =>
  colours ? `\x1b[${code}m${text}\x1b[0m` : `${text}`;
const [red, green, yellow, dim, bold] = [paint("31"), paint("32"), paint("33"), paint("2"), paint("1")];

const bornAt = Date.now();
const mountPoint = mkdtempSync(join(tmpdir(), "erofs-nbd-demo-"));
/** @type {{ cause: string, level: string, stallMs: number, strandedReads: number, result: string }[]} */
const outcomes = [];
/** @type {string[]} */
const complaints = [];

/** The guest's own limit is longer (run.mjs): so the demo can report what went wrong. */
const LIMIT_MS = 15 * 60_000;
/** What a busy machine may take for one step. */
const STEP_LIMIT_MS = 5 * 60_000;
const LOG = join(process.env["EROFS_NBD_RUN_DIR"] ?? "/run/erofs-nbd", "manager.log");
const LOG_LINES = 30;

/** @type {Promise<never>} */
const outOfTime = new Promise((_, fail) => {
  setTimeout(() => fail(new Error(`it was not over after ${LIMIT_MS / 60_000} minutes`)), LIMIT_MS).unref();
});
process.exit(await Promise.race([tell(), outOfTime]).catch(giveUp));

async function tell() {
  cli("mount", image, mountPoint);
  const [device] = statuses();
  line(
    `mounted ${bold(device.device)} at ${mountPoint}; ` +
      `manager ${device.managerPid}, served by worker ${device.links[0].workerPid}`,
  );

  const watcher = start(CLI, ["status", "--watch", "--json"]);
  watcher.onLine((text) => hear(JSON.parse(text)));
  const tree = start(TREE_READER, [mountPoint, manifest]);
  const blocks = start(BLOCK_READER, [device.device, image, `${DEPTH}`, "4096", `${BUCKET_MS}`], {
    UV_THREADPOOL_SIZE: `${DEPTH}`,
  });
  await blocks.saying("reading");
  await tree.saying("reading");
  line(
    `two readers: every file of the tree by checksum, and random blocks past the page cache, ${DEPTH} at a time`,
  );
  await sleep(1500);

  /** @type {number[]} */
  const killedAt = [];
  for (let kill = 1; kill <= KILLS; kill += 1) {
    const [{ index, links }] = statuses();
    const worker = links[0].workerPid;
    // Stopped first, so that the readers' requests are surely on the wire when it dies.
    process.kill(worker, "SIGSTOP");
    await until("reads on the wire", () => inFlight(index) >= DEPTH);
    const onTheWire = inFlight(index);
    killedAt.push(Date.now());
    killIfThere(worker);
    line(`${red(`kill -9 ${worker}`)} (the serving worker), ${onTheWire} reads on the wire`);
    await until("the failover", () => outcomes.length >= kill);
    const outcome = outcomes[kill - 1];
    const [{ links: now }] = statuses();
    line(
      `${green(outcome?.result ?? "?")}: worker ${now[0].workerPid} goes on with the same socket; ` +
        `reads waited ${yellow(`${(outcome?.stallMs ?? 0).toFixed(0)} ms`)} (${outcome?.level})`,
    );
    // A slow machine takes a moment to have another worker ready.
    await sleep(2500);
  }

  const blockReport = JSON.parse(await blocks.finish());
  const treeReport = JSON.parse(await tree.finish());
  const [last] = statuses();
  await watcher.interrupt();
  drawTimeline(blockReport, killedAt);
  return sumUp(blockReport, treeReport, last);
}

/** @param {any} blocks @param {any} tree @param {any} device */
async function sumUp(blocks, tree, device) {
  const { counters } = device;
  line(
    `blocks: ${blocks.reads} reads, ${blocks.errors} errors, ${blocks.mismatches} wrong; ` +
      `longest ${(blocks.longestMs / 1000).toFixed(2)} s, median ${blocks.p50Ms} ms`,
  );
  line(
    `tree:   ${tree.files} files read (${tree.passes} times over), ${tree.errors} errors, ${tree.mismatches} wrong`,
  );
  line(
    `failovers counted: ${counters.takeovers} taken over, ${counters.reconnects} reconnected, ` +
      `${counters.failedFailovers} failed, of ${KILLS} kills`,
  );
  expect(
    blocks.errors === 0 && blocks.mismatches === 0 && blocks.reads > 0,
    "a block was wrong or could not be read",
  );
  expect(
    tree.errors === 0 && tree.mismatches === 0 && tree.files > 0,
    "a file was wrong or could not be read",
  );
  expect(
    counters.takeovers === KILLS && counters.reconnects + counters.failedFailovers === 0,
    "the failovers do not add up",
  );
  expect(outcomes.length === KILLS, `${outcomes.length} outcomes were told for ${KILLS} kills`);
  spawnSync("umount", [mountPoint], { stdio: "inherit" });
  await until(
    "the end of everything",
    () => !existsSync(`/sys/block/nbd${device.index}/pid`) && !existsSync(`/proc/${device.managerPid}`),
  );
  rmdirSync(mountPoint);
  line("umount: device, workers and manager are gone");
  for (const complaint of complaints) line(red(complaint));
  const good = complaints.length === 0;
  if (!good) showLog();
  process.stdout.write(
    good
      ? `\n${green("✔ every byte matched, every failover was counted, no read was lost")}\n`
      : `\n${red("✘ the demo failed")}\n`,
  );
  return good ? 0 : 1;
}

/** Tells why the demo failed: in one line, and by the end of the manager's log. @param {unknown} error */
function giveUp(error) {
  line(red(error instanceof Error ? error.message.trimEnd() : String(error)));
  showLog();
  process.stdout.write(`\n${red("✘ the demo failed")}\n`);
  return 1;
}

function showLog() {
  const text = existsSync(LOG) ? readFileSync(LOG, "utf8").trimEnd() : "";
  if (text === "") return line(dim(`the manager has written no log (${LOG})`));
  line(dim(`the end of ${LOG}:`));
  for (const each of text.split("\n").slice(-LOG_LINES)) process.stdout.write(`        ${each}\n`);
}

/** Completed reads per moment, with the kills marked above. @param {any} report @param {number[]} killedAt */
function drawTimeline(report, killedAt) {
  const bars = " ▁▂▃▄▅▆▇█";
  const most = Math.max(...report.buckets);
  const marks = report.buckets.map((/** @type {number} */ _, /** @type {number} */ at) => {
    const from = report.startedAt + at * BUCKET_MS;
    return killedAt.some((kill) => kill >= from && kill < from + BUCKET_MS) ? red("✕") : " ";
  });
  const graph = report.buckets.map(
    (/** @type {number} */ count) => bars[count === 0 ? 0 : Math.max(1, Math.round((count / most) * 8))],
  );
  process.stdout.write(
    `\n  ${marks.join("")}  ${red("✕")} kill -9\n` +
      `  ${green(graph.join(""))}  reads per ${BUCKET_MS} ms (most: ${most})\n\n`,
  );
}

/** @param {any} event */
function hear(event) {
  if (event.event === "failover") outcomes.push(event);
  else if (event.event === "state") line(dim(`  ${event.device} ${event.before} → ${event.state}`));
}

/** @param {boolean} good @param {string} otherwise */
function expect(good, otherwise) {
  if (!good) complaints.push(otherwise);
}

/** @param {string[]} args */
function cli(...args) {
  line(bold(`$ erofs-nbd ${args.join(" ")}`));
  const { status, stderr, stdout } = spawnSync(process.execPath, [CLI, ...args], { encoding: "utf8" });
  if (status !== 0) throw new Error(`erofs-nbd ${args[0]} ended with ${status}: ${stderr}`);
  return stdout;
}

/** @returns {any[]} */
function statuses() {
  const words = [CLI, "status", "--json"];
  const { status, stderr, stdout } = spawnSync(process.execPath, words, { encoding: "utf8" });
  if (status !== 0) throw new Error(`erofs-nbd status ended with ${status}: ${stderr}`);
  return JSON.parse(stdout);
}

/** On a busy machine the manager may have found the stopped worker hanging, and killed it. @param {number} pid */
function killIfThere(pid) {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "ESRCH") throw error;
  }
}

/** @param {number} index */
function inFlight(index) {
  return Number(readFileSync(`/sys/block/nbd${index}/inflight`, "utf8").trim().split(/\s+/)[0]);
}

/** @param {string} what @param {() => boolean} condition */
async function until(what, condition) {
  const end = Date.now() + STEP_LIMIT_MS;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited ${STEP_LIMIT_MS / 60_000} minutes in vain for ${what}`);
    await sleep(10);
  }
}

/** @param {string} script @param {string[]} args @param {Record<string, string>} [env] */
function start(script, args, env = {}) {
  const child = spawn(process.execPath, [script, ...args], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  /** @type {string[]} */
  const lines = [];
  /** @type {((text: string) => void)[]} */
  const listeners = [];
  createInterface(child.stdout).on("line", (text) => {
    lines.push(text);
    for (const listener of listeners) listener(text);
  });
  return {
    onLine: (/** @type {(text: string) => void} */ listener) => listeners.push(listener),
    saying: (/** @type {string} */ word) => until(`"${word}"`, () => lines.includes(word)),
    finish: async () => {
      child.stdin.end();
      await once(child, "close");
      return lines.at(-1) ?? "";
    },
    interrupt: async () => {
      child.kill("SIGINT");
      await once(child, "close");
    },
  };
}

/** @param {string} text */
function line(text) {
  const seconds = ((Date.now() - bornAt) / 1000).toFixed(2).padStart(6);
  process.stdout.write(`${dim(seconds)}  ${text}\n`);
}
