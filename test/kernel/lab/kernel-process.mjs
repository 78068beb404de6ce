// @ts-check
/**
 * The host process that is a guest: started in a process group of its own, and ended as a group, helpers included.
 *
 * boot.mjs calls it. A watchdog in another group ends the guest when this process dies without having done so:
 * a User-Mode Linux kernel that loses its parent would otherwise leave helpers behind, or run on.
 */
import { spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Waits for the end of its input, which comes when the parent is gone. */
const WATCHDOG = 'read -r line; kill -s KILL -- "-$1"; rm -rf "$2"';

/**
 * @typedef {object} KernelProcess
 * @property {Promise<string>} ended settles once with how it ended, for people; no process of the group is left then
 * @property {() => void} kill ends the group at once
 */

/**
 * Starts a kernel.
 * @param {import("./kernels.mjs").PreparedKernel} kernel
 * @param {{ share: string, scratch: string, memoryMiB: number }} place `scratch` is for UML's own files and removed
 *   by the watchdog when the parent dies; `share` gets console.log
 * @returns {KernelProcess}
 */
export function startKernel(kernel, place) {
  const parameters = [
    `mem=${place.memoryMiB}M`,
    `initrd=${kernel.initramfsPath}`,
    `lab_share=${place.share}`,
    `uml_dir=${place.scratch}/uml`,
    "con=null",
    "con0=null,fd:1",
    "loglevel=7",
    "panic=1",
    "random.trust_cpu=on",
    ...kernel.parameters,
  ];
  const log = openSync(join(place.share, "console.log"), "w");
  const child = spawn(kernel.linuxPath, parameters, {
    stdio: ["ignore", log, log],
    env: { PATH: "/usr/bin:/bin", HOME: place.scratch, TMPDIR: memoryDirectory(place.memoryMiB) },
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

/** @param {number | undefined} pid leader of the group */
function killGroup(pid) {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    // ESRCH: nobody of the group is left, which is what we want.
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "ESRCH") throw error;
  }
}

/**
 * Where UML keeps its memory file: it must allow executable mappings and have room.
 * @param {number} memoryMiB
 */
function memoryDirectory(memoryMiB) {
  const mounts = existsSync("/proc/mounts") ? readFileSync("/proc/mounts", "utf8") : "";
  const shm = mounts.split("\n").find((line) => line.split(" ")[1] === "/dev/shm");
  if (shm === undefined || /\bnoexec\b/.test(shm)) return tmpdir();
  const { bavail, bsize } = statfsSync("/dev/shm");
  return bavail * bsize >= memoryMiB * 2 ** 20 ? "/dev/shm" : tmpdir();
}
