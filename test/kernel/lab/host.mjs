// @ts-check
/**
 * The other way to get a kernel: this machine's own. Says whether the guest suite can run on it.
 *
 * linux-suite.ts and run.mjs call it. It loads the modules the suite needs and changes nothing else.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";

/** Stands for the machine's own kernel wherever a series of the lab is expected. */
export const HOST_KERNEL = "host";

/**
 * Why the suite can't run on this kernel, or nothing.
 * @returns {string | undefined}
 */
export function hostObstacle() {
  if (process.getuid?.() !== 0) return "cannot use this machine's kernel: not root";
  for (const module of ["nbd", "erofs"]) spawnSync("modprobe", ["-q", module], { stdio: "ignore" });
  if (!existsSync("/sys/block/nbd0"))
    return "cannot use this machine's kernel: it has no nbd devices (modprobe nbd)";
  if (!/^\s*erofs$/m.test(readFileSync("/proc/filesystems", "utf8"))) {
    return "cannot use this machine's kernel: it has no erofs";
  }
  return undefined;
}
