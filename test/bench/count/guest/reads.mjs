// @ts-check
/**
 * System calls for each read, by a worker that serves a device's link and by `serve`.
 *
 * The client takes turns with the server (lockstep-client.mjs); per-read.mjs makes figures of the server's calls.
 */
import { mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { TICK_INTERVAL_MS } from "../../../../dist/src/pool/policy/hang-watch.js";
import { WorkerPool } from "../../../../dist/src/pool/worker-pool.js";
import { openImage } from "../../../../dist/src/source/open-image.js";
import { SERVERS, start } from "../../servers.mjs";
import { connectToServer, LockstepClient } from "./lockstep-client.mjs";
import { perRead } from "./per-read.mjs";
import { traceWhile } from "./strace.mjs";

const IMAGE_BYTES = 16 * 1024 * 1024;
/** Before anything is counted, and while it is: by depth, so that there are some windows of whole rounds. */
const WARM_UP_READS = 16;
const READS = /** @type {Record<number, number>} */ ({ 1: 40, 8: 80 });
const START_LIMIT_MS = 120_000;

const SIZES = [
  { name: "4 KiB", lengthBytes: 4096 },
  { name: "128 KiB", lengthBytes: 128 * 1024 },
  { name: "1 MiB", lengthBytes: 1024 * 1024 },
];
const DEPTHS = [1, 8];

/**
 * @typedef {object} Peer
 * @property {number} pid of the server
 * @property {() => number} connect returns a socket on which requests may be sent, and that is the peer's
 * @property {() => Promise<void> | void} stop
 */

/**
 * @param {string} directory on tmpfs, where leases are to be had: for an image, sockets and what strace writes
 * @param {string} unleasable on another file system, where there are none: for the same image
 * @returns {Promise<Map<string, number[]>>} by server and load, in the order of READ_COLUMNS
 */
export async function countReads(directory, unleasable) {
  /** @type {Map<string, number[]>} */
  const rows = new Map();
  for (const [lease, imageDirectory] of [
    ["", directory],
    [", no lease", unleasable],
  ]) {
    const image = join(`${imageDirectory}`, "image");
    writeFileSync(image, Buffer.alloc(IMAGE_BYTES, 1));
    for (const [name, open] of /** @type {const} */ ([
      ["link", openLink],
      ["serve", openServer],
    ])) {
      const peer = await open(image, directory);
      try {
        for (const size of SIZES)
          for (const depth of DEPTHS) {
            const row = await countLoad(peer, depth, size.lengthBytes, directory);
            rows.set(`${name}${lease}, ${size.name}, depth ${depth}`, row);
          }
      } finally {
        await peer.stop();
      }
    }
  }
  return rows;
}

/**
 * A link of a worker of a pool; this process is manager and kernel.
 * @param {string} path
 * @param {string} directory
 * @returns {Promise<Peer>}
 */
async function openLink(path, directory) {
  const [workers = "", journals = ""] = ["workers-", "journals-"].map((name) =>
    mkdtempSync(join(directory, name)),
  );
  const pool = new WorkerPool(
    { size: 1, stderr: "inherit", directory: workers, journals },
    { log: () => {} },
  );
  pool.fill();
  const image = { ...openImage(path), blockSizeBytes: 4096 };
  const request = {
    image,
    copyOnly: false,
    spread: false,
    device: "counted",
    linkIndex: 0,
    deviceIndex: () => undefined,
    below: [],
    counted: true,
    inFlight: () => 0,
    hangTimeoutMs: START_LIMIT_MS,
  };
  const nobody = () => {};
  const observer = {
    orphaned: nobody,
    firstRequest: nobody,
    readErrors: nobody,
    moved: nobody,
    ended: nobody,
  };
  const link = await pool.openLink(
    request,
    { ...observer, exactness: nobody },
    AbortSignal.timeout(START_LIMIT_MS),
  );
  return {
    pid: link.workerPid,
    connect: () => link.kernelFd,
    stop: () => {
      link.close();
      pool.stop();
    },
  };
}

/** @param {string} path @param {string} directory @returns {Promise<Peer>} */
async function openServer(path, directory) {
  const [serve] = SERVERS;
  if (serve === undefined) throw new Error("servers.mjs does not begin with our own");
  const server = await start(serve, path, directory);
  return { pid: server.pid, connect: () => connectToServer(server.socket), stop: () => server.stop() };
}

/**
 * @param {Peer} peer
 * @param {number} depth
 * @param {number} lengthBytes
 * @param {string} directory
 */
async function countLoad(peer, depth, lengthBytes, directory) {
  const client = new LockstepClient(peer.connect(), peer.pid);
  /** @param {number} rounds */
  const read = (rounds) => {
    for (let round = 0; round < rounds; round += 1) client.read(round, depth, lengthBytes, IMAGE_BYTES);
  };
  read(WARM_UP_READS / depth);
  // At its next tick the pool gives the link's pipe the size for such replies; the worker learns it with the next one.
  await sleep(4 * TICK_INTERVAL_MS);
  read(WARM_UP_READS / depth);
  const calls = await traceWhile(peer.pid, join(directory, "trace"), () => read((READS[depth] ?? 0) / depth));
  return perRead(calls, depth);
}
