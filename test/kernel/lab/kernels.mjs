// @ts-check
/**
 * The kernels of the lab: User-Mode Linux binaries and modules from Debian, made ready to run in the cache.
 *
 * boot.mjs and cli.mjs call `prepareKernel`. Only series and suites are written here; exact versions are what the
 * archive gives. It never installs anything.
 */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { command, openSuite } from "./apt.mjs";
import { cacheEntry, cacheRoot } from "./cache.mjs";
import { LabError } from "./errors.mjs";
import { buildInitramfs } from "./initramfs.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
/** busybox and patchelf come from here: static, or old enough to run on every newer libc. */
const TOOL_SUITE = "bookworm";
const LOADER = "ld-linux-x86-64.so.2";

/**
 * Series → suite, and extra kernel parameters. `seccomp=auto` exists from 6.16 on and makes system calls cheaper.
 * @type {Readonly<Record<string, { suite: string, parameters: readonly string[] }>>}
 */
export const KERNELS = {
  6.1: { suite: "bookworm", parameters: [] },
  6.12: { suite: "trixie", parameters: [] },
  7.2: { suite: "sid", parameters: ["seccomp=auto"] },
};

/**
 * A kernel ready to boot; all paths absolute.
 * @typedef {object} PreparedKernel
 * @property {string} series
 * @property {string} version as uname -r will say
 * @property {string} linuxPath the kernel, a host program
 * @property {string} modulesPath goes to /lib/modules/VERSION
 * @property {string} initramfsPath
 * @property {string} busyboxPath
 * @property {readonly string[]} parameters
 */

/**
 * Downloads what is missing and returns the kernel.
 * @param {string} series a key of KERNELS
 * @returns {Promise<PreparedKernel>}
 */
export async function prepareKernel(series) {
  const kernel = KERNELS[series];
  if (kernel === undefined) {
    throw new LabError("ERR_LAB_ARGUMENT", `Cannot boot ${series}: no such kernel in the lab`, {
      hint: `one of ${Object.keys(KERNELS).join(", ")}`,
    });
  }
  const tools = await cacheEntry("tools", prepareTools);
  const busyboxPath = join(tools, "busybox");
  const entry = await cacheEntry(`kernel-${series}`, (draft) =>
    fillKernel(draft, series, kernel.suite, tools),
  );
  const version = readFileSync(join(entry, "version"), "utf8").trim();
  const modulesPath = join(entry, "modules", version);
  return {
    series,
    version,
    linuxPath: join(entry, "linux.uml"),
    modulesPath,
    initramfsPath: writeInitramfs(entry, busyboxPath, modulesPath),
    busyboxPath,
    parameters: kernel.parameters,
  };
}

/** @param {string} draft */
async function prepareTools(draft) {
  const suite = await openSuite(TOOL_SUITE, draft);
  const unpacked = join(draft, "unpacked");
  await command("make a directory", "mkdir", ["-p", unpacked], draft);
  await suite.download(["busybox-static", "patchelf"], unpacked);
  const busybox = ["bin/busybox", "usr/bin/busybox"]
    .map((path) => join(unpacked, path))
    .find((path) => existsSync(path));
  if (busybox === undefined) throw new LabError("ERR_LAB_PREPARE", "Cannot find busybox in its package");
  renameSync(busybox, join(draft, "busybox"));
  renameSync(join(unpacked, "usr/bin/patchelf"), join(draft, "patchelf"));
  cleanDraft(draft);
}

/**
 * @param {string} draft
 * @param {string} series
 * @param {string} suiteName
 * @param {string} tools
 */
async function fillKernel(draft, series, suiteName, tools) {
  const suite = await openSuite(suiteName, draft);
  const unpacked = join(draft, "unpacked");
  await command("make a directory", "mkdir", ["-p", unpacked], draft);
  await suite.download(["user-mode-linux", "libc6"], unpacked);
  const modules = join(unpacked, "usr/lib/uml/modules");
  const version = readdirSync(modules)[0];
  if (version?.startsWith(`${series}.`) !== true) {
    throw new LabError("ERR_LAB_PREPARE", `Cannot get kernel ${series}: ${suiteName} now has ${version}`);
  }
  renameSync(join(unpacked, "usr/bin/linux.uml"), join(draft, "linux.uml"));
  renameSync(modules, join(draft, "modules"));
  // The kernel runs with the libc of its own suite: newer ones don't start on an older host.
  const libc = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
    .map((path) => join(unpacked, path))
    .find((path) => existsSync(join(path, LOADER)));
  if (libc === undefined)
    throw new LabError("ERR_LAB_PREPARE", `Cannot find ${LOADER} in libc6 of ${suiteName}`);
  renameSync(libc, join(draft, "libc"));
  writeFileSync(join(draft, "version"), `${version}\n`);
  const finalLibc = join(cacheRoot(), `kernel-${series}`, "libc");
  const patch = ["--set-interpreter", join(finalLibc, LOADER), "--set-rpath", finalLibc];
  await command(
    "patch the kernel's libc path",
    join(tools, "patchelf"),
    [...patch, join(draft, "linux.uml")],
    draft,
  );
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
    init: readFileSync(join(HERE, "guest-init.sh")),
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
