// @ts-check
/**
 * Which kernel test file runs on which kernel. linux-suite.ts runs what is planned, and the table at the end of `npm
 * test` holds it against what came of it (table.mjs): a cell that is planned and did not run is a failure.
 */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const GUEST_DIR = "test/kernel/guest";
/** Runs on one kernel in a guest of its own, with systemd as its first process. */
export const SYSTEMD_FILE = "systemd.test.ts";
export const SYSTEMD_KERNEL = "6.12";

/**
 * Kernels that run these files only, as long as no filter says otherwise: two processors cost a machine of the same
 * size, so that kernel is for races between links, workers and kernel threads, not for everything once more.
 * @type {Readonly<Record<string, readonly string[]>>}
 */
const SELECTED = {
  "6.12-smp": ["image-compressors.test.ts", "lab.test.ts", "takeover.test.ts"],
};

/**
 * Files that a kernel can do without: what they test does not depend on the kernel's version, or is tested there by
 * other files, and everything together has to be over in less than half an hour. Each file runs on one of them at
 * least, and takeover.test.ts on 6.12 with two processors.
 * @type {Readonly<Record<string, readonly string[]>>}
 */
const LEFT_OUT = {
  6.1: [
    "adoption-steps.test.ts",
    "adoption.test.ts",
    "chaos.test.ts",
    "cli-mount.test.ts",
    "cli.test.ts",
    "device-stack.test.ts",
    "examples.test.ts",
    "former-version.test.ts",
    "handover-after-death.test.ts",
    "handover.test.ts",
    "hung-images.test.ts",
    "image-compressors.test.ts",
    "image-kinds.test.ts",
    "image-parts.test.ts",
    "ioctl.test.ts",
    "manager.test.ts",
    "many-devices.test.ts",
    "mount-helper.test.ts",
    "observability.test.ts",
    "takeover-crash-loop.test.ts",
    "takeover-ends.test.ts",
  ],
  6.12: [
    "adoption-steps.test.ts",
    "adoption.test.ts",
    "chaos.test.ts",
    "cli.test.ts",
    "device-stack.test.ts",
    "former-version.test.ts",
    "handover-after-death.test.ts",
    "handover.test.ts",
    "hung-images.test.ts",
    "image-compressors.test.ts",
    "image-kinds.test.ts",
    "manager.test.ts",
    "many-devices.test.ts",
    "mount.test.ts",
    "takeover-crash-loop.test.ts",
    "takeover-links.test.ts",
    "takeover.test.ts",
  ],
  7.2: [
    "cli-mount.test.ts",
    "examples.test.ts",
    "ioctl.test.ts",
    "mount-helper.test.ts",
    "observability.test.ts",
  ],
};

/**
 * What the second guest of a kernel runs, beside the first one: 7.2 is the fastest of them and has most of the files, and
 * a guest uses one processor.
 * @type {Readonly<Record<string, readonly string[]>>}
 */
const SECOND_GUEST = {
  7.2: [
    "adoption-steps.test.ts",
    "adoption.test.ts",
    "device-stack.test.ts",
    "hung-images.test.ts",
    "image-compressors.test.ts",
    "image-kinds.test.ts",
    "image-parts.test.ts",
    "many-devices.test.ts",
    "takeover-crash-loop.test.ts",
  ],
};

/** Every kernel test file there is, by name. */
export function guestFiles() {
  const directory = fileURLToPath(new URL("../guest", import.meta.url));
  return readdirSync(directory).filter((name) => name.endsWith(".test.ts"));
}

/**
 * The names of the files that one guest of a kernel runs.
 * @param {string} kernel
 * @param {"first" | "second"} guest
 * @param {readonly string[]} wanted as for {@link plannedFiles}
 */
export function filesOfGuest(kernel, guest, wanted) {
  const second = SECOND_GUEST[kernel] ?? [];
  return plannedFiles(kernel, wanted).filter((name) => second.includes(name) === (guest === "second"));
}

/**
 * The names of the files that a kernel runs.
 * @param {string} kernel
 * @param {readonly string[]} wanted words of their names; without any the plan holds
 */
export function plannedFiles(kernel, wanted) {
  if (wanted.length > 0)
    return guestFiles().filter((name) => wanted.some((word) => `${GUEST_DIR}/${name}`.includes(word)));
  const selected = SELECTED[kernel];
  const leftOut = LEFT_OUT[kernel] ?? [];
  return guestFiles().filter((name) => selected?.includes(name) ?? !leftOut.includes(name));
}
