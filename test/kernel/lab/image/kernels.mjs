// @ts-check
/**
 * The kernels of the lab, made ready to run in the cache.
 *
 * boot.mjs and cli.mjs call `prepareKernel`. Only series and suites are written here; exact versions are what the
 * archive gives. What differs between User-Mode Linux and an emulated machine is in uml.mjs and qemu.mjs.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { LabError } from "../errors.mjs";
import { preparePtrace } from "../machine/ptrace-xstate.mjs";
import { fillQemu, qemuLaunch } from "../machine/qemu.mjs";
import { fillUml, umlLaunch } from "../machine/uml.mjs";
import { openSuite } from "./apt.mjs";
import { cacheEntry, cacheRoot } from "./cache.mjs";
import { buildInitramfs } from "./initramfs.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
/** busybox and patchelf come from here: static, or old enough to run on every newer libc. */
const TOOL_SUITE = "bookworm";

/**
 * Series, suite, how many processors (one: User-Mode Linux, more: QEMU), and extra kernel parameters.
 * `seccomp=auto` exists from 6.16 on and makes system calls cheaper. `smallXstate`: see ptrace-xstate.c.
 * @typedef {{ series: string, suite: string, processors: number, parameters: readonly string[], smallXstate?: true }}
 * KernelChoice
 * @type {Readonly<Record<string, KernelChoice>>}
 */
export const KERNELS = {
  6.1: { series: "6.1", suite: "bookworm", processors: 1, parameters: [], smallXstate: true },
  6.12: { series: "6.12", suite: "trixie", processors: 1, parameters: [], smallXstate: true },
  7.2: { series: "7.2", suite: "sid", processors: 1, parameters: ["seccomp=auto"] },
  "6.12-smp": { series: "6.12", suite: "trixie", processors: 2, parameters: [] },
};

/**
 * A kernel ready to boot; all paths absolute.
 * @typedef {object} PreparedKernel
 * @property {string} name its key in KERNELS
 * @property {string} version as uname -r will say
 * @property {string} directory its cache entry
 * @property {string} modulesPath goes to /lib/modules/VERSION
 * @property {string} initramfsPath
 * @property {number} processors
 * @property {readonly string[]} parameters
 * @property {string | undefined} preload a library for the kernel process
 */

/**
 * Downloads what is missing and returns the kernel.
 * @param {string} name a key of KERNELS
 * @returns {Promise<PreparedKernel>}
 */
export async function prepareKernel(name) {
  const kernel = KERNELS[name];
  if (kernel === undefined) {
    throw new LabError("ERR_LAB_ARGUMENT", `cannot boot ${name}: no such kernel in the lab`, {
      hint: `one of ${Object.keys(KERNELS).join(", ")}`,
    });
  }
  const tools = await cacheEntry("tools", prepareTools);
  const busyboxPath = join(tools, "busybox");
  const entryName = `kernel-${name}`;
  const directory = await cacheEntry(entryName, async (draft) => {
    if (kernel.processors > 1) await fillQemu(draft, kernel, busyboxPath);
    else await fillUml(draft, join(cacheRoot(), entryName), kernel, tools);
    cleanDraft(draft);
  });
  const version = readFileSync(join(directory, "version"), "utf8").trim();
  const modulesPath = join(directory, "modules", version);
  return {
    name,
    version,
    directory,
    modulesPath,
    initramfsPath: writeInitramfs(directory, busyboxPath, modulesPath),
    processors: kernel.processors,
    preload: kernel.smallXstate === true ? await preparePtrace() : undefined,
    parameters: ["loglevel=7", "panic=1", "random.trust_cpu=on", ...kernel.parameters],
  };
}

/**
 * The command that starts a prepared kernel.
 * @param {PreparedKernel} kernel
 * @param {import("../machine/kernel-process.mjs").Place} place
 * @returns {import("../machine/kernel-process.mjs").Launch}
 */
export function launchOf(kernel, place) {
  return kernel.processors > 1 ? qemuLaunch(kernel, place) : umlLaunch(kernel, place);
}

/** @param {string} draft */
async function prepareTools(draft) {
  const suite = await openSuite(TOOL_SUITE, draft);
  const unpacked = join(draft, "unpacked");
  mkdirSync(unpacked);
  await suite.download(["busybox-static", "patchelf"], unpacked);
  const busybox = ["bin/busybox", "usr/bin/busybox"]
    .map((path) => join(unpacked, path))
    .find((path) => existsSync(path));
  if (busybox === undefined) throw new LabError("ERR_LAB_PREPARE", "cannot find busybox in its package");
  renameSync(busybox, join(draft, "busybox"));
  renameSync(join(unpacked, "usr/bin/patchelf"), join(draft, "patchelf"));
  cleanDraft(draft);
}

/**
 * The initramfs is cheap and its script belongs to this source tree, so it is written anew when the script changed.
 * @param {string} entry
 * @param {string} busyboxPath
 * @param {string} modulesPath
 */
function writeInitramfs(entry, busyboxPath, modulesPath) {
  const overlay = join(modulesPath, "kernel/fs/overlayfs/overlay.ko");
  const bytes = buildInitramfs({
    busybox: readFileSync(busyboxPath),
    overlayModule: existsSync(overlay) ? readFileSync(overlay) : undefined,
    init: readFileSync(join(HERE, "../guest/guest-init.sh")),
  });
  const path = join(entry, "initramfs.cpio");
  if (existsSync(path) && readFileSync(path).equals(bytes)) return path;
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, bytes);
  renameSync(draft, path);
  return path;
}

/**
 * Removes downloads and unpacked leftovers from a draft, so that the cache keeps only what boots.
 * @param {string} draft
 */
function cleanDraft(draft) {
  for (const name of readdirSync(draft)) {
    if (name === "unpacked" || name.startsWith("apt-"))
      rmSync(join(draft, name), { recursive: true, force: true });
  }
}
