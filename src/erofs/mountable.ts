/**
 * Explains why a kernel of a given release cannot mount an EROFS image; mount(2) only returns EINVAL.
 *
 * Called by `mount` and `doctor`. Because distributions backport features, the kernel's own list
 * (/sys/fs/erofs/features), if given, overrules the release. The result is advice: the caller may mount anyway.
 */
import { nounFor } from "../text/plural.ts";
import {
  ALGORITHMS,
  FIRST_RELEASE,
  incompatNeeds,
  type KernelNeed,
  type LinuxRelease,
  SUB_PAGE_COMPRESSED_SINCE,
  SUB_PAGE_SINCE,
  unknownIncompat,
} from "./features.ts";
import type { Superblock } from "./superblock.ts";

/** One reason against mounting. */
export interface MountProblem {
  readonly kind: "kernel-too-old" | "unknown-feature" | "block-size" | "extra-devices" | "directory-blocks";
  /** A clause that fits after "cannot mount X: ". */
  readonly message: string;
  readonly hint: string;
}

/** Facts besides the kernel's release. */
export interface KernelFacts {
  /** How many further images are named for the mount. Default 0. */
  readonly extraDevices?: number | undefined;
  /** Default 4096. */
  readonly pageSizeBytes?: number | undefined;
  /** File names of /sys/fs/erofs/features, if the erofs module is loaded. */
  readonly features?: readonly string[] | undefined;
}

/**
 * The reasons why the kernel cannot mount the image; empty if there is none.
 *
 * @param kernelRelease as `uname -r` prints it, for example "6.1.0-42-amd64"; an unreadable one counts as the newest
 */
export function checkMountable(
  superblock: Superblock,
  kernelRelease: string,
  facts: KernelFacts = {},
): MountProblem[] {
  const release = parseRelease(kernelRelease);
  const problems: MountProblem[] = [];
  const tooOld = tooOldFor(superblock, release, facts.features ?? []);
  if (tooOld.length > 0) {
    const newest = tooOld.map((need) => need.since).reduce((a, b) => (isBefore(a, b) ? b : a));
    const names = tooOld.map((need) => `${need.name} (Linux ${need.since.join(".")})`).join(", ");
    problems.push({
      kind: "kernel-too-old",
      message: `it needs ${names}, and this is Linux ${kernelRelease}`,
      hint: `boot Linux ${newest.join(".")} or newer, or make the image again without these features`,
    });
  }
  const unknown = unknownIncompat(superblock.featureIncompat);
  if (unknown !== 0) {
    problems.push({
      kind: "unknown-feature",
      message: `it uses incompatible features 0x${unknown.toString(16)}, which no known kernel supports`,
      hint: "the image is damaged, or newer than this program: try a newer kernel, or rebuild it with fewer features",
    });
  }
  return [...problems, ...layoutProblems(superblock, release, facts)];
}

/** The needs that the release does not meet and that the kernel's own list does not contain. */
function tooOldFor(superblock: Superblock, release: LinuxRelease, features: readonly string[]): KernelNeed[] {
  const algorithms = ALGORITHMS.filter((one) => superblock.compression.includes(one.name));
  const needs = [
    { name: "erofs", since: FIRST_RELEASE },
    ...incompatNeeds(superblock.featureIncompat),
    ...algorithms,
  ];
  // A kernel without EROFS misses every other feature, too: one reason is enough.
  const missing = needs.filter((need) => isBefore(release, need.since) && !features.includes(need.name));
  return missing[0]?.name === "erofs" ? missing.slice(0, 1) : missing;
}

function layoutProblems(
  superblock: Superblock,
  release: LinuxRelease,
  { pageSizeBytes = 4096, extraDevices: named = 0 }: KernelFacts,
): MountProblem[] {
  const problems: MountProblem[] = [];
  const { blockSizeBytes, compression, directoryBlockBits, extraDevices } = superblock;
  const since = compression.length > 0 ? SUB_PAGE_COMPRESSED_SINCE : SUB_PAGE_SINCE;
  if (blockSizeBytes > pageSizeBytes) {
    problems.push({
      kind: "block-size",
      message: `its blocks of ${blockSizeBytes} bytes are larger than this kernel's pages of ${pageSizeBytes}`,
      hint: `make the image again with mkfs.erofs -b ${pageSizeBytes}`,
    });
  } else if (blockSizeBytes < pageSizeBytes && isBefore(release, since)) {
    problems.push({
      kind: "block-size",
      message:
        `its ${compression.length > 0 ? "compressed " : ""}blocks of ${blockSizeBytes} bytes are smaller than ` +
        `this kernel's pages of ${pageSizeBytes}, which needs Linux ${since.join(".")}`,
      hint: `boot a newer kernel, or make the image again with mkfs.erofs -b ${pageSizeBytes}`,
    });
  }
  if (directoryBlockBits !== 0) {
    problems.push({
      kind: "directory-blocks",
      message: "its directories use blocks of their own size, which no known kernel supports",
      hint: "make the image again without a directory block size",
    });
  }
  if (extraDevices !== named) {
    const given = `${named} ${named === 1 ? "is" : "are"} named`;
    problems.push({
      kind: "extra-devices",
      message:
        `it keeps data on ${extraDevices} more ${nounFor(extraDevices, "device")} than this image` +
        (named === 0 ? "" : `, and ${given}`),
      hint:
        extraDevices === 0
          ? "mount it without -o device="
          : "name the image of each with mount -o device=IMAGE, in the order in which mkfs.erofs was given them",
    });
  }
  return problems;
}

/** The first two numbers of a release; an unreadable one counts as the newest. */
function parseRelease(text: string): LinuxRelease {
  const match = /^(\d+)\.(\d+)/.exec(text);
  return match === null ? [Number.POSITIVE_INFINITY, 0] : [Number(match[1]), Number(match[2])];
}

function isBefore(a: LinuxRelease, b: LinuxRelease): boolean {
  return a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
}
