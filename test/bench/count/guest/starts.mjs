// @ts-check
/**
 * What commands load and start: JavaScript files and their size, processes and programs.
 *
 * A file counts once in each process that opens it, whether Node reads it as source, from a bundle or as an addon.
 */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { costs, sum } from "./costs.mjs";
import { traceTree } from "./strace.mjs";

const ROOT = fileURLToPath(new URL("../../../..", import.meta.url));
/** What is run as erofs-nbd. */
const CLI = join(ROOT, JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).bin["erofs-nbd"]);
const TRACED = "openat,open,execve,clone,clone3,fork,vfork";
const LOOK_AGAIN_MS = 50;
const LIMIT_MS = 120_000;
const IMAGE_BYTES = 1024 * 1024;
const POOL_SIZE = 2;

/**
 * What commands cost by themselves, and a cold attach by who pays it. Runs in a kernel with nbd, as root.
 * @param {string} directory for what strace writes, a run directory and images
 * @returns {Promise<Map<string, number[]>>} by command, in the order of START_COLUMNS
 */
export async function countStarts(directory) {
  const runDir = join(directory, "run");
  const env = { ...process.env, EROFS_NBD_RUN_DIR: runDir, UV_USE_IO_URING: "0" };
  const images = ["first", "second"].map((name) => join(directory, name));
  for (const image of images) writeFileSync(image, new Uint8Array(IMAGE_BYTES));
  const [first = "", second = ""] = images;
  /** @type {Map<string, number[]>} */
  const rows = new Map();
  let traces = 0;
  /** @param {readonly string[]} args @param {(printed: Promise<unknown>) => Promise<void>} [whileRunning] */
  const trace = async (args, whileRunning) => {
    const file = join(directory, `trace.${traces++}`);
    const options = { file, trace: TRACED, env, ...(whileRunning && { whileRunning }) };
    const { calls, status, stderr } = await traceTree([process.execPath, CLI, ...args], options);
    if (status !== 0) throw new Error(`erofs-nbd ${args.join(" ")} ended with ${status}: ${stderr}`);
    return costs(calls, ROOT, (path) => statSync(path).size);
  };
  /** @param {string} name @param {readonly string[]} args */
  const add = async (name, args) => rows.set(name, sum([...(await trace(args)).values()]));
  for (const option of ["--version", "--help", "status"]) await add(option, [option]);
  // The manager ends with its last device, and the tree with the manager: all of a cold attach has happened by then.
  const cold = await trace(["attach", first], async (printed) => {
    await printed;
    await untilPoolIsWhole(join(runDir, "workers"));
    run(["detach", first], env);
  });
  run(["attach", first], env);
  await add("attach, warm", ["attach", second]);
  await add("status, two devices", ["status"]);
  await add("detach", ["detach", first, second]);
  for (const [who, cost] of cold) rows.set(`attach, cold: ${who}`, cost);
  return rows;
}

/** @param {readonly string[]} args @param {NodeJS.ProcessEnv} env */
function run(args, env) {
  execFileSync(process.execPath, [CLI, ...args], {
    env,
    stdio: ["ignore", "ignore", "inherit"],
    timeout: LIMIT_MS,
  });
}

/** A worker that starts behind the attach starts for it. @param {string} workers where each has a socket */
async function untilPoolIsWhole(workers) {
  const deadlineMs = Date.now() + LIMIT_MS;
  while (readdirSync(workers).length < POOL_SIZE) {
    if (Date.now() > deadlineMs) throw new Error(`Fewer than ${POOL_SIZE} workers have started`);
    await delay(LOOK_AGAIN_MS);
  }
}
