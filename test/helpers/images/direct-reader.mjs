// @ts-check
/**
 * Reads a device past the page cache, several reads at a time, and compares each with the image.
 *
 *   UV_THREADPOOL_SIZE=DEPTH node direct-reader.mjs DEVICE IMAGE DEPTH BLOCK_BYTES[-MAX_BYTES]
 *     [BUCKET_MS [random|sequential [PAUSE_MS]]]
 *
 * Random blocks, or the whole device from start to end over and over; with MAX_BYTES, each read of another length; with
 * PAUSE_MS, each slot rests between two reads. Prints `reading` once reads are in flight, reads until its stdin ends,
 * then prints one JSON line: how many reads, errors, reads that were cut short or wrong, and wrong ones among them, and
 * how long the slowest took. A process of its own, because its reads may wait in the kernel where no signal reaches
 * them.
 */
import { closeSync, constants, openSync, read, readFileSync } from "node:fs";
import koffi from "koffi";

const [, , device = "", image = "", depthText, blockText, bucketText, order, pauseText] = process.argv;
const depth = Number(depthText ?? 8);
const bucketMs = Number(bucketText ?? 1000);
const pauseMs = Number(pauseText ?? 0);
const [blockBytes = 4096, maxBytes = blockBytes] = (blockText ?? "4096").split("-").map(Number);
/** Lengths are multiples of this, as O_DIRECT wants them. */
const GRAIN_BYTES = 4096;
const fd = openSync(device, constants.O_RDONLY | constants.O_DIRECT);
const wanted = readFileSync(image);
const blocks = Math.floor(wanted.length / blockBytes);

/** @type {{ startedMs: number, tookMs: number }[]} */
const latencies = [];
const bornMs = performance.now();
let errors = 0;
let mismatches = 0;
let wrong = 0;
let firstError = "";
let stopping = false;
let running = depth;
let nextAt = 0;

/** O_DIRECT wants memory aligned to the device's blocks. */
function alignedBuffer() {
  const space = new Uint8Array(new ArrayBuffer(maxBytes + 4096));
  const start = Number(4096n - (BigInt(koffi.address(space)) % 4096n)) % 4096;
  return space.subarray(start, start + maxBytes);
}

/** Where the next read goes, and how long it is. */
function choose() {
  const grains = Math.floor(Math.random() * (1 + (maxBytes - blockBytes) / GRAIN_BYTES));
  const lengthBytes = Math.min(blockBytes + grains * GRAIN_BYTES, blocks * blockBytes);
  if (order !== "sequential") {
    const at = Math.floor(Math.random() * blocks) * blockBytes;
    return { at: Math.min(at, blocks * blockBytes - lengthBytes), lengthBytes };
  }
  if (nextAt + lengthBytes > blocks * blockBytes) nextAt = 0;
  const at = nextAt;
  nextAt += lengthBytes;
  return { at, lengthBytes };
}

/** @param {Uint8Array} buffer */
function readOne(buffer) {
  if (stopping) {
    running -= 1;
    if (running === 0) report();
    return;
  }
  const { at, lengthBytes } = choose();
  const startedMs = performance.now();
  read(fd, buffer, 0, lengthBytes, at, (error, got) => {
    latencies.push({ startedMs, tookMs: performance.now() - startedMs });
    if (error !== null) {
      errors += 1;
      firstError ||= String(error);
    } else {
      const isWrong = Buffer.compare(buffer.subarray(0, got), wanted.subarray(at, at + got)) !== 0;
      if (isWrong) wrong += 1;
      // The kernel answers with what it got before a part that failed.
      if (got !== lengthBytes || isWrong) mismatches += 1;
    }
    if (pauseMs > 0) setTimeout(readOne, pauseMs, buffer);
    else setImmediate(readOne, buffer);
  });
}

function report() {
  closeSync(fd);
  const sorted = latencies.map(({ tookMs }) => tookMs).sort((a, b) => a - b);
  /** @param {number} share */
  const quantile = (share) => Math.round((sorted[Math.floor(share * (sorted.length - 1))] ?? 0) * 10) / 10;
  const lastMs = latencies.reduce(
    (last, { startedMs, tookMs }) => Math.max(last, startedMs + tookMs),
    bornMs,
  );
  const buckets = Array(Math.floor((lastMs - bornMs) / bucketMs) + 1).fill(0);
  for (const { startedMs, tookMs } of latencies)
    buckets[Math.floor((startedMs + tookMs - bornMs) / bucketMs)] += 1;
  const result = {
    startedAt: Math.round(performance.timeOrigin + bornMs),
    buckets,
    reads: sorted.length,
    errors,
    mismatches,
    wrong,
    firstError,
    p50Ms: quantile(0.5),
    p99Ms: quantile(0.99),
    p999Ms: quantile(0.999),
    longestMs: quantile(1),
  };
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

process.stdin.on("data", () => {});
process.stdin.once("end", () => {
  stopping = true;
});
for (let slot = 0; slot < depth; slot += 1) readOne(alignedBuffer());
process.stdout.write("reading\n");
