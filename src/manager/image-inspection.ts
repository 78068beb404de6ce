/**
 * What an image is, before a device is made of it: EROFS or raw, whole or truncated, and which block size it gets.
 */
import { readdirSync } from "node:fs";
import { release } from "node:os";
import { checkMountable } from "../erofs/mountable.ts";
import {
  checkImageSize,
  looksLikeErofs,
  parseSuperblock,
  SUPERBLOCK_HEAD_BYTES,
} from "../erofs/superblock.ts";
import { ErofsNbdError } from "../errors.ts";
import { type OpenImage, openImage } from "../source/open-image.ts";
import { check, close, pread } from "../sys/libc.ts";

const RAW_BLOCK_BYTES = 512;
/** Kernels before 7 take no device block above the page size; a file system's larger blocks do not need one. */
const MAX_DEFAULT_BLOCK_BYTES = 4096;

export interface Inspection {
  readonly blockSizeBytes: number;
  /** Lines for the user. */
  readonly notes: readonly string[];
}

/**
 * @throws ErofsNbdError ERR_IMAGE when an EROFS image is truncated or damaged; with `forMount` ERR_NOT_EROFS for any
 * other image, and ERR_MOUNT when this kernel cannot mount it
 */
export function inspectImage(image: OpenImage, blockSizeBytes: number | null, forMount: boolean): Inspection {
  const { path, identity } = image.spec;
  return inspectHead(readHead(image), { path, sizeBytes: identity.sizeBytes }, blockSizeBytes, forMount);
}

/** The same for data whose first SUPERBLOCK_HEAD_BYTES are at hand. @throws as inspectImage */
export function inspectHead(
  head: Uint8Array,
  { path, sizeBytes }: { readonly path: string; readonly sizeBytes: number },
  blockSizeBytes: number | null,
  forMount: boolean,
): Inspection {
  if (!looksLikeErofs(head)) {
    if (forMount) {
      throw new ErofsNbdError("ERR_NOT_EROFS", `cannot mount ${path}: it is not an EROFS image`, {
        hint: "«erofs-nbd attach» makes a block device of any image; mount that with the file system's own type",
      });
    }
    const notes = [`${path} is not an EROFS image: attached as a raw image`];
    return { blockSizeBytes: blockSizeBytes ?? RAW_BLOCK_BYTES, notes };
  }
  const superblock = parseSuperblock(head);
  checkImageSize(superblock, sizeBytes, path);
  const problems = checkMountable(superblock, release(), { features: kernelFeatures() });
  const [first] = problems;
  if (forMount && first !== undefined) {
    throw new ErofsNbdError("ERR_MOUNT", `cannot mount ${path}: ${first.message}`, { hint: first.hint });
  }
  return {
    blockSizeBytes: blockSizeBytes ?? Math.min(superblock.blockSizeBytes, MAX_DEFAULT_BLOCK_BYTES),
    notes: problems.map((problem) => `${path}: ${problem.message}`),
  };
}

/**
 * The open image, if it can be attached; with `forMount`, if it can be mounted as EROFS. For whoever is about to
 * hand it to a manager, which checks all of this again. The caller closes it.
 * @throws ErofsNbdError ERR_IMAGE, ERR_NOT_EROFS, ERR_MOUNT
 */
export function openChecked(path: string, blockSizeBytes: number | null, forMount: boolean): OpenImage {
  if (path === "") throw new ErofsNbdError("ERR_BAD_ARGUMENT", "cannot open an image: its path is empty");
  const image = openImage(path);
  try {
    inspectImage(image, blockSizeBytes, forMount);
    return image;
  } catch (error) {
    close(image.fd);
    throw error;
  }
}

/** What the loaded erofs module says it can do: distributions backport. Empty when it is not loaded. */
function kernelFeatures(): string[] {
  try {
    return readdirSync("/sys/fs/erofs/features");
  } catch {
    return [];
  }
}

function readHead(image: OpenImage): Uint8Array {
  const head = new Uint8Array(Math.min(SUPERBLOCK_HEAD_BYTES, image.spec.identity.sizeBytes));
  let filled = 0;
  while (filled < head.length) {
    const got = check(
      "read",
      pread(image.fd, head.subarray(filled), head.length - filled, filled),
      image.spec.path,
    );
    if (got === 0) break;
    filled += got;
  }
  return head.subarray(0, filled);
}
