// @ts-check
/**
 * The host process that is a guest: started in a process group of its own, and ended as a group, helpers included.
 *
 * boot.mjs calls it. A watchdog in another group ends the guest when this process dies without having done so:
 * a User-Mode Linux kernel that loses its parent would otherwise leave helpers behind, or run on.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { LAUNCH_VARIABLE } from "../../../../tools/leftovers.mjs";
import { launchOf } from "../image/kernels.mjs";
import { onProcessor } from "./processor.mjs";

/** Waits for the end of its input, which comes when the parent is gone. */
const WATCHDOG = 'read -r line; kill -s KILL -- "-$1"; rm -rf "$2"';

/**
 * @typedef {object} KernelProcess
 * @property {Promise<string>} ended settles once with how it ended, for people; no process of the group is left then
 * @property {() => void} kill ends the group at once
 */

/**
 * Where a guest's files are: `scratch` is for the kernel process's own and removed by the watchdog when the parent
 * dies; `share` gets console.log and is the guest's to write. `cpu` is the one processor that the guest runs on.
 * @typedef {{ share: string, scratch: string, memoryMiB: number, cpu: number | undefined }} Place
 */

/**
 * The program that is a guest, run in `scratch`. Whatever else it starts must stay in its process group.
 * @typedef {{ file: string, args: readonly string[], environment: Readonly<Record<string, string>> }} Launch
 */

/**
 * Starts a kernel.
 * @param {import("../image/kernels.mjs").PreparedKernel} kernel
 * @param {Place} place
 * @returns {KernelProcess}
 */
export function startKernel(kernel, place) {
  const { environment, ...program } = launchOf(kernel, place);
  const { file, args } = place.cpu === undefined ? program : onProcessor(program, place.cpu);
  const log = openSync(join(place.share, "console.log"), "w");
  const child = spawn(file, args, {
    stdio: ["ignore", log, log],
    env: { PATH: "/usr/bin:/bin", HOME: place.scratch, ...launchMark(), ...environment },
    detached: true,
    cwd: place.scratch, // a kernel that panics aborts, and may leave a core file
  });
  closeSync(log);
  const watchdog = spawn("/bin/sh", ["-c", WATCHDOG, "sh", String(child.pid), place.scratch], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  const kill = () => killGroup(child.pid);
  const ended = new Promise((done, failed) => {
    child.once("error", failed);
    child.once("exit", (code, signal) =>
      done(signal === null ? `ended with ${code}` : `was killed by ${signal}`),
    );
  }).finally(() => {
    kill();
    watchdog.kill("SIGKILL");
  });
  return { ended, kill };
}

/** Tells the run's keeper that a guest is its own: see tools/keeper.mjs. */
function launchMark() {
  const run = process.env[LAUNCH_VARIABLE];
  return run === undefined ? {} : { [LAUNCH_VARIABLE]: run };
}

/** @param {number | undefined} pid leader of the group */
function killGroup(pid) {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    // ESRCH: the group has no process left, as intended.
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "ESRCH") throw error;
  }
}
