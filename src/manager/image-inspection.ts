/**
 * Inspects an image before it is attached: EROFS or raw, complete or truncated, and its block size.
 *
 * Used by the manager for each attach, and by commands and the library before they send an image to it.
 */
import { readdirSync } from "node:fs";
import { release } from "node:os";
import type { ImagePart } from "../control/protocol.ts";
import { checkMountable } from "../erofs/mountable.ts";
import {
  checkImageSize,
  looksLikeErofs,
  parseSuperblock,
  SUPERBLOCK_HEAD_BYTES,
} from "../erofs/superblock.ts";
import { ErofsNbdError } from "../errors.ts";
import { type OpenImage, openImage } from "../source/open-image.ts";
import { check } from "../sys/libc/bind.ts";
import { close, pread } from "../sys/libc/files.ts";
import { pageSizeBytes } from "../sys/libc/memory.ts";

const RAW_BLOCK_BYTES = 512;
/** Kernels before 7 take no device blocks above the page size. A file system with larger blocks needs none. */
const MAX_DEFAULT_BLOCK_BYTES = 4096;

const WHOLE: ImagePart = { offsetBytes: 0 };

export interface Inspection {
  readonly blockSizeBytes: number;
  /** Lines for the user. */
  readonly notes: readonly string[];
}

/**
 * @throws ErofsNbdError ERR_IMAGE when an EROFS image is truncated or damaged; with `forMount` ERR_NOT_EROFS for any
 * other image, and ERR_MOUNT when this kernel cannot mount it
 */
export function inspectImage(
  image: OpenImage,
  blockSizeBytes: number | null,
  forMount: boolean,
  part: ImagePart = WHOLE,
): Inspection {
  const { path, identity } = image.spec;
  const head = readHead(image, part.offsetBytes);
  return inspectHead(head, { path, sizeBytes: identity.sizeBytes }, blockSizeBytes, forMount, part);
}

/** The same for an image of which SUPERBLOCK_HEAD_BYTES from the offset on are given. @throws as inspectImage */
export function inspectHead(
  head: Uint8Array,
  { path, sizeBytes }: { readonly path: string; readonly sizeBytes: number },
  blockSizeBytes: number | null,
  forMount: boolean,
  { offsetBytes, extraDevices, extraOf }: ImagePart = WHOLE,
): Inspection {
  if (extraOf !== undefined) return { blockSizeBytes: blockSizeBytes ?? RAW_BLOCK_BYTES, notes: [] };
  if (!looksLikeErofs(head)) {
    if (forMount && offsetBytes > 0) {
      throw new ErofsNbdError(
        "ERR_NOT_EROFS",
        `cannot mount ${path}: there is no EROFS image at offset ${offsetBytes}`,
        { hint: "fsoffset is the number of bytes before the image" },
      );
    }
    if (forMount) {
      throw new ErofsNbdError("ERR_NOT_EROFS", `cannot mount ${path}: it is not an EROFS image`, {
        hint: "erofs-nbd attach makes a block device of any image; mount that with the type of its file system",
      });
    }
    const notes = [`${path} is not an EROFS image: attached as a raw image`];
    return { blockSizeBytes: blockSizeBytes ?? RAW_BLOCK_BYTES, notes };
  }
  const superblock = parseSuperblock(head);
  checkImageSize(superblock, sizeBytes - offsetBytes, path);
  if (offsetBytes % superblock.blockSizeBytes !== 0) {
    const size = superblock.blockSizeBytes;
    throw new ErofsNbdError(
      "ERR_BAD_ARGUMENT",
      `cannot mount ${path}: fsoffset ${offsetBytes} is not a multiple of the image's block size, ${size} bytes`,
      { hint: `put the image at a multiple of ${size}, or make it with mkfs.erofs -b 512` },
    );
  }
  const problems = checkMountable(superblock, release(), {
    features: kernelFeatures(),
    extraDevices,
    pageSizeBytes: pageSizeBytes(),
  });
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
 * Opens an image that can be attached; with `forMount`, one that can be mounted as EROFS. Used before an image is
 * sent to a manager, which checks it again. The caller closes it.
 * @throws ErofsNbdError ERR_IMAGE, ERR_NOT_EROFS, ERR_MOUNT
 */
export function openChecked(
  path: string,
  blockSizeBytes: number | null,
  forMount: boolean,
  part: ImagePart = WHOLE,
): OpenImage {
  if (path === "") throw new ErofsNbdError("ERR_BAD_ARGUMENT", "cannot open an image: its path is empty");
  const image = openImage(path);
  try {
    inspectImage(image, blockSizeBytes, forMount, part);
    return image;
  } catch (error) {
    close(image.fd);
    throw error;
  }
}

/** The features of the loaded erofs module, which distributions may have backported. Empty when it is not loaded. */
function kernelFeatures(): string[] {
  try {
    return readdirSync("/sys/fs/erofs/features");
  } catch {
    return [];
  }
}

function readHead(image: OpenImage, offsetBytes: number): Uint8Array {
  const leftBytes = Math.max(0, image.spec.identity.sizeBytes - offsetBytes);
  const head = new Uint8Array(Math.min(SUPERBLOCK_HEAD_BYTES, leftBytes));
  let filled = 0;
  while (filled < head.length) {
    const got = check(
      "read",
      pread(image.fd, head.subarray(filled), head.length - filled, offsetBytes + filled),
      image.spec.path,
    );
    if (got === 0) break;
    filled += got;
  }
  return head.subarray(0, filled);
}
