// @ts-check
/**
 * How long the links of a killed worker take to move, on this machine and without a kernel's device: `npm run
 * bench:move`.
 *
 * A pool of two real workers, links over real sockets without a reader, SIGKILL to one worker at a time.
 * What the figure leaves out is what the kernel and the supervisors add: a few system calls for each link.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { WorkerPool } from "../../dist/src/pool/worker-pool.js";
import { openImage } from "../../dist/src/source/open-image.js";

const { values } = parseArgs({
  options: { links: { type: "string", default: "500" }, rounds: { type: "string", default: "11" } },
});
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-move-"));
for (const name of ["workers", "journals"]) mkdirSync(join(directory, name));
writeFileSync(join(directory, "image"), new Uint8Array(1 << 20));
const image = openImage(join(directory, "image"));
const pool = new WorkerPool(
  { size: 2, stderr: "ignore", directory: join(directory, "workers"), journals: join(directory, "journals") },
  { log: () => {} },
);
const never = new AbortController().signal;
/** @type {Promise<unknown>[]} Takeovers under way. */
let moving = [];

/** @param {number} number */
async function open(number) {
  /** @type {import("../../src/supervisor/ports.ts").OpenLink} */
  const link = await pool.openLink(
    {
      image: { ...image, blockSizeBytes: 4096 },
      copyOnly: false,
      spread: false,
      device: `device ${number}`,
      linkIndex: 0,
      counted: true,
      inFlight: () => 0,
      hangTimeoutMs: 60_000,
      deviceIndex: () => undefined,
      below: [],
    },
    {
      orphaned: () => void moving.push(link.takeOver(never, () => {})),
      firstRequest: () => {},
      readErrors: () => {},
      moved: () => {},
      ended: () => {},
    },
    never,
  );
  return link;
}

/** @param {() => boolean} holds */
async function until(holds) {
  while (!holds()) await delay(1);
}

pool.fill();
const links = [];
const openedFrom = performance.now();
for (let number = 0; number < Number(values.links); number += 1) links.push(await open(number));
process.stdout.write(`${links.length} links opened in ${Math.round(performance.now() - openedFrom)} ms\n`);
/** @type {{ count: number, tookMs: number }[]} */
const rounds = [];
for (let round = 0; round < Number(values.rounds); round += 1) {
  await until(() => pool.census(performance.now()).workers.filter(({ isReady }) => isReady).length === 2);
  // The successor that has just started is still busy with that.
  await delay(1000);
  moving = [];
  const victim = pool
    .census(performance.now())
    .workers.reduce((most, worker) => (worker.links > most.links ? worker : most));
  const killedAt = performance.now();
  process.kill(victim.pid, "SIGKILL");
  await until(() => moving.length === victim.links);
  await Promise.all(moving);
  rounds.push({ count: victim.links, tookMs: performance.now() - killedAt });
  process.stdout.write(`${victim.links} links moved in ${Math.round(performance.now() - killedAt)} ms\n`);
}
const each = rounds.map(({ count, tookMs }) => tookMs / count).sort((a, b) => a - b);
const [least = 0, median = 0, most = 0] = [each[0], each[each.length >> 1], each.at(-1)];
process.stdout.write(
  `per link: median ${median.toFixed(2)} ms, ${least.toFixed(2)} to ${most.toFixed(2)} ms in ${rounds.length} rounds\n`,
);
for (const link of links) link.close();
pool.stop();
rmSync(directory, { recursive: true, force: true });
process.exit(0);
