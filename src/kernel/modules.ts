/**
 * Whether a driver of this kernel is loaded, can be loaded, or does not exist. Loads nothing.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";

export type DriverState = "loaded" | "built in" | "module" | "missing";

/** The remedy where the nbd driver is not loaded, by what the kernel has of it. */
export const NBD_REMEDY = {
  module: "load it: modprobe nbd max_part=0",
  missing: "install the kernel package with nbd.ko, or a kernel with CONFIG_BLK_DEV_NBD",
} as const;

/** By the indexes of depmod and the kernel build in `modules`: the directories of this kernel, or a test's. */
export function driverState(name: string, modules: readonly string[] = MODULES): DriverState {
  if (statSync(`/sys/module/${name}`, { throwIfNoEntry: false }) !== undefined) return "loaded";
  if (lists(modules, "modules.builtin", name)) return "built in";
  if (name === "nbd" && readdirSync("/sys/block").some((entry) => entry.startsWith("nbd"))) return "built in";
  return lists(modules, "modules.dep", name) ? "module" : "missing";
}

const MODULES = ["/lib/modules", "/usr/lib/modules"].map((place) => join(place, release()));

function lists(modules: readonly string[], file: string, name: string): boolean {
  const entry = new RegExp(`(^|/)${name}\\.ko(\\.[a-z0-9]+)?(:|$)`, "m");
  return modules.some((place) => entry.test(readText(join(place, file)) ?? ""));
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // Missing and unreadable files are treated alike.
    return undefined;
  }
}
