// @ts-check
/**
 * User-Mode Linux: Debian's package user-mode-linux made ready to run, and how such a kernel is started.
 *
 * kernels.mjs calls both halves. One processor: up to 7.2 Debian builds it without SMP, although that kernel's source
 * has it (CONFIG_UML_SUBARCH_SUPPORTS_SMP). Nothing is installed.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LabError } from "../errors.mjs";
import { command, openSuite } from "../image/apt.mjs";

const LOADER = "ld-linux-x86-64.so.2";

/**
 * Fills a cache entry: `linux.uml`, `libc/`, `modules/VERSION/`, `version`.
 * @param {string} draft the entry as long as it is being made
 * @param {string} entry where it will be: the kernel's libc is found by absolute path
 * @param {{ series: string, suite: string }} kernel `series` as the version begins
 * @param {string} tools directory with patchelf
 */
export async function fillUml(draft, entry, { series, suite: suiteName }, tools) {
  const suite = await openSuite(suiteName, draft);
  const unpacked = join(draft, "unpacked");
  mkdirSync(unpacked);
  await suite.download(["user-mode-linux", "libc6"], unpacked);
  const modules = join(unpacked, "usr/lib/uml/modules");
  const version = readdirSync(modules)[0];
  if (version?.startsWith(`${series}.`) !== true) {
    throw new LabError("ERR_LAB_PREPARE", `cannot get kernel ${series}: ${suiteName} now has ${version}`);
  }
  renameSync(join(unpacked, "usr/bin/linux.uml"), join(draft, "linux.uml"));
  renameSync(modules, join(draft, "modules"));
  // The kernel runs with the libc of its own suite: newer ones don't start on an older host.
  const libc = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
    .map((path) => join(unpacked, path))
    .find((path) => existsSync(join(path, LOADER)));
  if (libc === undefined)
    throw new LabError("ERR_LAB_PREPARE", `cannot find ${LOADER} in libc6 of ${suiteName}`);
  renameSync(libc, join(draft, "libc"));
  writeFileSync(join(draft, "version"), `${version}\n`);
  const finalLibc = join(entry, "libc");
  const patch = ["--set-interpreter", join(finalLibc, LOADER), "--set-rpath", finalLibc];
  await command(
    "patch the kernel's libc path",
    join(tools, "patchelf"),
    [...patch, join(draft, "linux.uml")],
    draft,
  );
}

/**
 * The command that starts the kernel.
 * @param {import("../image/kernels.mjs").PreparedKernel} kernel
 * @param {import("./kernel-process.mjs").Place} place
 * @returns {import("./kernel-process.mjs").Launch}
 */
export function umlLaunch(kernel, place) {
  return {
    file: join(kernel.directory, "linux.uml"),
    args: [
      `mem=${place.memoryMiB}M`,
      `initrd=${kernel.initramfsPath}`,
      `uml_dir=${place.scratch}/uml`,
      "con=null",
      "con0=null,fd:1",
      ...kernel.parameters,
      `lab_share=${place.share}`,
      "lab_files=hostfs",
    ],
    environment: {
      TMPDIR: memoryDirectory(place.memoryMiB),
      ...(kernel.preload === undefined ? {} : { LD_PRELOAD: kernel.preload }),
    },
  };
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
