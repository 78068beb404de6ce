// @ts-check
/**
 * What `connectOrStart` starts in its tests: the real lock and the real control socket (of the build), no devices.
 *
 * How it behaves is in `behaviour.json` in the run directory's parent: it may be slow with its socket, stop, or die.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const dist = new URL("../../../dist/src/", import.meta.url);
/** @type {typeof import("../../../src/control/run-dir.ts")} */
const { chooseRunDir } = await import(new URL("control/run-dir.js", dist).href);
/** @type {typeof import("../../../src/control/run-dir-trust.ts")} */
const { prepareRunDir } = await import(new URL("control/run-dir-trust.js", dist).href);
const { lockRunDir } = await import(new URL("control/run-lock.js", dist).href);
/** @type {typeof import("../../../src/manager/control-server/control-server.ts")} */
const { ControlServer } = await import(new URL("manager/control-server/control-server.js", dist).href);

const runDir = chooseRunDir(process.argv[process.argv.indexOf("--run-dir") + 1]);
const path = join(dirname(runDir.path), "behaviour.json");
/** @type {{ lastWords?: string, slowMs?: number, leaves?: boolean, stopped?: "starting" | "listening" }} */
const behaviour = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : {};

if (behaviour.lastWords !== undefined) {
  process.stderr.write(`erofs-nbd: ${behaviour.lastWords}\n`);
  process.exit(2);
}
if (behaviour.leaves === true && !existsSync(`${path}.left`)) {
  writeFileSync(`${path}.left`, "");
  process.exit(0);
}
prepareRunDir(runDir);
const lock = lockRunDir(runDir);
if ("heldBy" in lock) {
  process.stderr.write(`erofs-nbd: cannot start a manager: manager ${lock.heldBy} runs there\n`);
  process.exit(2);
}
// Its event loop turns meanwhile, as that of a manager does which looks after devices.
const turning = setInterval(() => {}, 50);
await sleep(behaviour.slowMs ?? 0);
clearInterval(turning);
if (behaviour.stopped === "starting") process.kill(process.pid, "SIGSTOP");
const quiet = { info: () => {}, warn: () => {}, error: () => {} };
const server = new ControlServer(runDir.controlSocket, /** @type {never} */ ({}), quiet);
process.stdout.write("ready\n");
if (behaviour.stopped === "listening") process.kill(process.pid, "SIGSTOP");
// The test that started this has the pid by `hello`; without it there is no reason to stay, unless the test kills it.
const stays = process.argv.includes("--stay");
let idleTurns = 0;
setInterval(() => {
  idleTurns = server.connectionCount === 0 ? idleTurns + 1 : 0;
  if (idleTurns > 20 && !stays) process.exit(0);
}, 100);
