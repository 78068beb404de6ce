// @ts-check
/**
 * Wrong bytes from an image that is overwritten in place while it is read: counted, by the way that the bytes take.
 *
 *   node overwrites.mjs link|serve|device IMAGE [COUNT] [READ_BYTES] [SECONDS]
 *
 * `link`: a device's link, served by a worker of a pool; the program plays the kernel and takes its time before it
 * reads a reply. `serve`: a client of `erofs-nbd serve`. `device`: reads of /dev/nbdN past the page cache, where the
 * kernel has nbd (overwrites-guest.mjs boots one that has). IMAGE is made anew, on the file system that is to be looked
 * at. Each round overwrites all of it from another process and then puts bytes and times back. Every reply must be an
 * error or the bytes of the attach. Prints one JSON line. Needs a build. After SECONDS no further round begins; the
 * line says how many there were.
 */
import { execFileSync, spawn } from "node:child_process";
import {
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  read as readFromFile,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const [, , path = "", image = "", countText = "100", bytesText = "131072", secondsText] = process.argv;
const count = Number(countText);
const readBytes = Number(bytesText);
const limitMs = secondsText === undefined ? Number.POSITIVE_INFINITY : Number(secondsText) * 1000;
const IMAGE_BYTES = 4 << 20;
const DEPTH = 4;
const REQUEST_MAGIC = 0x25609513;
/** How long a round waits for its image to be readable again: a guest may be slow. */
const READABLE_MS = path === "device" ? 60_000 : 3000;
/** How long it waits for the next lease; where there is none, the round shows what checking is worth. */
const LEASED_MS = 3000;
const WRITER = `
  const { openSync, writeSync, closeSync, ftruncateSync } = require("node:fs");
  const rl = require("node:readline").createInterface({ input: process.stdin });
  const bytes = { good: Buffer.alloc(${IMAGE_BYTES}, 0x5a), bad: Buffer.alloc(${IMAGE_BYTES}, 0xa5) };
  rl.on("line", (which) => {
    const before = performance.now();
    const fd = openSync(process.argv[1], "r+");
    const waitedMs = performance.now() - before;
    writeSync(fd, bytes[which], 0, ${IMAGE_BYTES}, 0);
    closeSync(fd);
    process.stdout.write(waitedMs + "\\n");
  });
`;

writeFileSync(image, Buffer.alloc(IMAGE_BYTES, 0x5a));
const { ino } = statSync(image);
/** Whole seconds, which can be set again exactly; long ago, so that any change shows. */
const MADE_AT = 1_700_000_000;
utimesSync(image, MADE_AT, MADE_AT);

const writer = spawn(process.execPath, ["-e", WRITER, image], { stdio: ["pipe", "pipe", "inherit"] });
const answers = createInterface({ input: writer.stdout })[Symbol.asyncIterator]();
/** @param {"good" | "bad"} which */
async function write(which) {
  writer.stdin.write(`${which}\n`);
  return Number((await answers.next()).value);
}

const good = Buffer.alloc(readBytes, 0x5a);
let wrong = 0;
let errors = 0;
let right = 0;

/** Keeps requests in flight and checks what comes back; bytes come in through `take`. */
class Reader {
  /** @param {(bytes: Buffer) => void} say */
  constructor(say) {
    this.say = say;
    this.asking = false;
    this.inFlight = 0;
    /** @type {Buffer} */
    this.held = Buffer.alloc(0);
  }

  ask() {
    while (this.asking && this.inFlight < DEPTH) {
      const request = Buffer.alloc(28);
      request.writeUInt32BE(REQUEST_MAGIC, 0);
      const at = Math.floor((Math.random() * (IMAGE_BYTES - readBytes)) / 4096) * 4096;
      request.writeBigUInt64BE(BigInt(at), 16);
      request.writeUInt32BE(readBytes, 24);
      this.inFlight += 1;
      this.say(request);
    }
  }

  /** @param {Buffer} bytes */
  take(bytes) {
    this.held = this.held.length === 0 ? bytes : Buffer.concat([this.held, bytes]);
    while (this.held.length >= 16) {
      const failed = this.held.readUInt32BE(4) !== 0;
      const length = failed ? 16 : 16 + readBytes;
      if (this.held.length < length) break;
      if (failed) errors += 1;
      else if (this.held.subarray(16, length).equals(good)) right += 1;
      else wrong += 1;
      this.held = Buffer.from(this.held.subarray(length));
      this.inFlight -= 1;
    }
    this.ask();
  }
}

async function openLinkReader() {
  const { WorkerPool } = await import("../../dist/src/pool/worker-pool.js");
  const { openImage } = await import("../../dist/src/source/open-image.js");
  const { recv, send } = await import("../../dist/src/sys/libc/sockets.js");
  const directory = mkdtempSync(join(tmpdir(), "overwrites-"));
  for (const name of ["workers", "journals"]) mkdirSync(join(directory, name));
  const pool = new WorkerPool(
    {
      size: 1,
      stderr: "inherit",
      directory: join(directory, "workers"),
      journals: join(directory, "journals"),
    },
    { log: () => {} },
  );
  pool.fill();
  const { fd, spec } = openImage(image);
  /** @type {Reader} */
  let reader;
  const request = {
    image: { fd, spec, blockSizeBytes: 4096 },
    copyOnly: false,
    spread: false,
    device: "overwrites",
    linkIndex: 0,
    counted: true,
    inFlight: () => reader.inFlight,
    hangTimeoutMs: 10_000,
    deviceIndex: () => undefined,
    below: [],
  };
  const observer = new Proxy({}, { get: () => () => {} });
  const link = await pool.openLink(request, /** @type {never} */ (observer), AbortSignal.timeout(20_000));
  reader = new Reader((bytes) => void send(link.kernelFd, bytes, bytes.length, 0));
  const buffer = Buffer.alloc(1 << 20);
  let stopped = false;
  const loop = async () => {
    while (!stopped) {
      // Replies lie in the socket for a moment, as they do while a kernel is busy.
      if (Math.random() < 0.3) await sleep(Math.random() * 3);
      else await turn();
      const got = recv(link.kernelFd, buffer, buffer.length, 0x40);
      if (got > 0) reader.take(Buffer.from(buffer.subarray(0, got)));
      else reader.ask();
    }
  };
  const running = loop();
  return {
    reader,
    close: async () => {
      stopped = true;
      await running;
      link.close();
      pool.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function openServeReader() {
  const socket = join(mkdtempSync(join(tmpdir(), "overwrites-")), "s");
  const main = fileURLToPath(new URL("../../dist/src/cli/main.js", import.meta.url));
  const server = spawn(process.execPath, [main, "serve", "--socket", socket, image], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  await new Promise((resolve) => server.stderr.once("data", resolve));
  server.stderr.resume();
  const client = connect(socket);
  const said = async () => /** @type {Promise<Buffer>} */ (new Promise((r) => client.once("data", r)));
  await said();
  const hello = Buffer.alloc(20);
  hello.writeUInt32BE(3, 0);
  hello.write("IHAVEOPT", 4, "latin1");
  hello.writeUInt32BE(1, 12);
  client.write(hello);
  await said();
  const reader = new Reader((bytes) => void client.write(bytes));
  client.on("data", (bytes) => {
    reader.take(bytes);
    // A client that takes its time: what was sent lies in the socket meanwhile.
    if (Math.random() < 0.3) {
      client.pause();
      setTimeout(() => client.resume(), Math.random() * 10);
    }
  });
  client.on("close", () => {
    throw new Error("the server has cut the connection");
  });
  return {
    reader,
    close: async () => {
      client.removeAllListeners("close");
      client.destroy();
      server.kill("SIGTERM");
    },
  };
}

/**
 * Reads of a device, told to a Reader as if they were replies. What a read got before a part that failed counts, too.
 */
async function openDeviceReader() {
  const { default: koffi } = await import("koffi");
  const main = fileURLToPath(new URL("../../dist/src/cli/main.cjs", import.meta.url));
  /** @param {readonly string[]} words */
  const run = (...words) => execFileSync(process.execPath, [main, ...words], { encoding: "utf8" });
  const node = run("attach", "--block-size", "4096", image).trim();
  const fd = openSync(node, constants.O_RDONLY | constants.O_DIRECT);
  const free = Array.from({ length: DEPTH }, () => {
    const space = new Uint8Array(readBytes + 4096);
    const start = Number(-BigInt(koffi.address(space)) & 4095n);
    return space.subarray(start, start + readBytes);
  });
  const reader = new Reader((request) => {
    const buffer = free.pop() ?? new Uint8Array();
    readFromFile(fd, buffer, 0, readBytes, Number(request.readBigUInt64BE(16)), (error, got) => {
      const part = Buffer.from(buffer.subarray(0, error === null ? got : 0));
      const isWhole = part.length === readBytes;
      if (!isWhole && !part.equals(good.subarray(0, part.length))) wrong += 1;
      const header = Buffer.alloc(16);
      header.writeUInt32BE(isWhole ? 0 : 5, 4);
      free.push(buffer);
      reader.take(isWhole ? Buffer.concat([header, part]) : header);
    });
  });
  return {
    reader,
    close: async () => {
      closeSync(fd);
      run("detach", node);
    },
  };
}

const isLeased = () =>
  readFileSync("/proc/locks", "latin1")
    .split("\n")
    .some((line) => line.includes("LEASE") && line.includes("ACTIVE") && line.includes(`:${ino} `));

const open = { link: openLinkReader, serve: openServeReader, device: openDeviceReader }[path];
if (open === undefined)
  throw new Error("usage: overwrites.mjs link|serve|device IMAGE [COUNT] [READ_BYTES] [SECONDS]");
const { reader, close } = await open();
let leasedRounds = 0;
let everLeased = false;
/** @type {number[]} */
const waits = [];
const begunAt = performance.now();
let rounds = 0;
for (let round = 0; round < count && performance.now() - begunAt < limitMs; round += 1) {
  const before = right;
  reader.asking = true;
  reader.ask();
  const startedAt = performance.now();
  while (right - before < 2 * DEPTH && performance.now() - startedAt < READABLE_MS) await sleep(1);
  if (right - before < 2 * DEPTH) throw new Error(`round ${round}: the image did not become readable again`);
  const mayWaitMs = round === 0 ? 1000 : everLeased ? LEASED_MS : 0;
  while (!isLeased() && performance.now() - startedAt < mayWaitMs) await sleep(5);
  everLeased ||= isLeased();
  leasedRounds += Number(isLeased());
  waits.push(await write("bad"));
  await sleep(12);
  reader.asking = false;
  while (reader.inFlight > 0) await sleep(1);
  await write("good");
  utimesSync(image, MADE_AT, MADE_AT);
  rounds += 1;
}
await close();
writer.stdin.end();
const sorted = waits.sort((a, b) => a - b);
const [medianMs, longestMs] = [0.5, 1].map(
  (share) => Math.round((sorted[Math.ceil(share * sorted.length) - 1] ?? 0) * 10) / 10,
);
const counts = { path, readBytes, overwrites: rounds, leasedRounds, wrong, errors, right };
process.stdout.write(`${JSON.stringify({ ...counts, writerWaits: { medianMs, longestMs } })}\n`);
