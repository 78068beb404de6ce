// @ts-check
/**
 * Wrong bytes from a device whose image is overwritten in place (overwrites.mjs), by the file system of the image, in a
 * kernel that has nbd:
 *
 *   node overwrites-guest.mjs [--kernel 6.12] [--count N] [--bytes N] [--seconds N] [--timeout N] [--on LIST]
 *
 * `--seconds` limits each file system, `--timeout` the guest. Each file system of a disk is made on a loop device, so
 * this machine needs its mkfs; fuse needs bindfs. What the kernel or the machine does not have is named and left out.
 * Prints one JSON line for each. Needs a build.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { boot } from "../kernel/lab/boot.mjs";

const { values } = parseArgs({
  options: {
    kernel: { type: "string", default: "6.12" },
    count: { type: "string", default: "250" },
    bytes: { type: "string", default: "131072" },
    seconds: { type: "string", default: "600" },
    timeout: { type: "string", default: "4000" },
    on: { type: "string", default: "tmpfs,overlay,ext4,xfs,btrfs,fuse" },
    guest: { type: "boolean", default: false },
  },
});
const OVERWRITES = fileURLToPath(new URL("overwrites.mjs", import.meta.url));
/** XFS wants 300 MB at least; the file has holes. */
const DISK_BYTES = 320 << 20;
const MKFS = { ext4: ["mkfs.ext4", "-q"], xfs: ["mkfs.xfs", "-q"], btrfs: ["mkfs.btrfs", "-q"] };

/** @param {string} program @param {readonly string[]} words */
function run(program, ...words) {
  const { status, stderr, error } = spawnSync(program, words, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${words.join(" ")}: ${error?.message ?? stderr.trim()}`);
}

/** Mounts a fresh one at DIRECTORY/on. @param {string} kind @param {string} directory */
function makeAndMount(kind, directory) {
  const on = join(directory, "on");
  const side = (/** @type {string} */ name) => join(directory, name);
  for (const name of ["on", "lower", "upper", "work"]) mkdirSync(side(name));
  if (kind === "tmpfs") return run("mount", "-t", "tmpfs", "tmpfs", on);
  if (kind === "overlay") {
    run("mount", "-t", "tmpfs", "tmpfs", directory);
    for (const name of ["on", "lower", "upper", "work"]) mkdirSync(side(name));
    const layers = `lowerdir=${side("lower")},upperdir=${side("upper")},workdir=${side("work")}`;
    return run("mount", "-t", "overlay", "-o", layers, "overlay", on);
  }
  if (kind === "fuse") {
    run("modprobe", "fuse");
    return run("bindfs", side("lower"), on);
  }
  const [program = "", ...words] = MKFS[/** @type {keyof typeof MKFS} */ (kind)] ?? [];
  run("modprobe", "loop");
  writeFileSync(side("disk"), "");
  truncateSync(side("disk"), DISK_BYTES);
  run(program, ...words, side("disk"));
  run("mount", "-t", kind, "-o", "loop", side("disk"), on);
}

function inTheGuest() {
  const known = readFileSync("/proc/filesystems", "latin1").split(/\s+/);
  process.stdout.write(
    `file systems of this kernel: ${known.filter((name) => name !== "nodev").join(" ")}\n`,
  );
  for (const kind of values.on.split(",")) {
    const directory = mkdtempSync("/tmp/overwrites-");
    try {
      makeAndMount(kind, directory);
    } catch (error) {
      process.stdout.write(`${JSON.stringify({ on: kind, leftOut: String(error) })}\n`);
      continue;
    }
    const image = join(directory, "on", "image");
    const words = [OVERWRITES, "device", image, values.count, values.bytes, values.seconds];
    const { stdout, stderr } = spawnSync(process.execPath, words, { encoding: "utf8" });
    const found = stdout === "" ? { failed: stderr.trim() } : JSON.parse(stdout);
    process.stdout.write(`${JSON.stringify({ on: kind, ...found })}\n`);
  }
}

if (values.guest) inTheGuest();
else {
  const { exitCode } = await boot({
    kernel: /** @type {import("../kernel/lab/types.ts").KernelSeries} */ (values.kernel),
    command: [process.execPath, fileURLToPath(import.meta.url), "--guest", ...process.argv.slice(2)],
    env: { PATH: process.env["PATH"] ?? "", LD_LIBRARY_PATH: process.env["LD_LIBRARY_PATH"] ?? "" },
    timeoutMs: Number(values.timeout) * 1000,
    onOutput: (stream, text) => process[stream].write(text),
  });
  process.exitCode = exitCode;
}
