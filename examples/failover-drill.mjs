// @ts-check
/**
 * A failover drill: attaches an image with its own manager, repeatedly kills the worker that serves it during reads,
 * and prints what happened. Exit code 0 only if no read failed and every kill was counted as one failover.
 *
 * `sudo node examples/failover-drill.mjs IMAGE [KILLS]`
 */
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { NbdManager } from "erofs-nbd";

const [image = "", kills = "3"] = process.argv.slice(2);
const runDir = await mkdtemp(join(tmpdir(), "failover-drill-"));
const manager = new NbdManager({ runDir });
await manager.start();
const device = await manager.attach(image);
device.on("state", (state, before) => console.log(`  ${device.device} ${before} → ${state}`));

let reads = 0;
let done = false;
const reading = readOn();
for (let kill = 1; kill <= Number(kills); kill += 1) {
  const { links } = await device.status();
  const recovered = nextFailover();
  console.log(`kill -9 ${links[0]?.workerPid} (the serving worker), ${reads} reads so far`);
  process.kill(links[0]?.workerPid ?? 0, "SIGKILL");
  const { result, level, stallMs, strandedReads } = await recovered;
  console.log(`  ${result} by ${level}: ${strandedReads} reads waited, for ${stallMs} ms`);
  const before = reads;
  while (reads === before) await turn();
}
done = true;
await reading;
const { counters } = await device.status();
console.log(
  `${reads} reads, none failed; ${counters.takeovers} takeovers, ${counters.reconnects} reconnects`,
);
await manager.stop({ detach: true });
await rm(runDir, { recursive: true });
process.exitCode = counters.takeovers + counters.reconnects === Number(kills) ? 0 : 1;

/** @returns {Promise<Omit<import("erofs-nbd").FailoverOutcome, "at">>} */
function nextFailover() {
  return new Promise((resolve) => device.once("failover", resolve));
}

/** Reads random blocks; a failed read ends the drill. */
async function readOn() {
  const file = await open(device.device);
  try {
    for (const block = new Uint8Array(4096); !done; reads += 1) {
      const at = Math.floor((Math.random() * device.sizeBytes) / block.length);
      await file.read(block, 0, block.length, at * block.length);
    }
  } finally {
    await file.close();
  }
}
