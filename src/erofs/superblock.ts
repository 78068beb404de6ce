/**
 * Reads and checks the EROFS superblock: the 128 bytes at offset 1024 of an image, and their checksum.
 *
 * Called before an image is attached or mounted, with the image's first bytes in memory; no I/O is done here. Images
 * that no kernel mounts are refused; mountable.ts checks for what a particular kernel supports.
 *
 * Source: fs/erofs/erofs_fs.h (`struct erofs_super_block`) and fs/erofs/super.c, 5.4 to 6.17.
 */

import { ErofsNbdError } from "../errors.ts";
import { crc32c } from "./crc32c.ts";
import {
  ALGORITHMS,
  compatNames,
  EROFS_FEATURE_COMPAT_SB_CHKSUM,
  EROFS_FEATURE_INCOMPAT_48BIT,
  EROFS_FEATURE_INCOMPAT_COMPR_CFGS,
  EROFS_FEATURE_INCOMPAT_DEVICE_TABLE,
  EROFS_FEATURE_INCOMPAT_ZERO_PADDING,
  incompatNames,
} from "./features.ts";

/** Where the superblock starts: the bytes before it are left to boot sectors. */
export const EROFS_SUPER_OFFSET = 1024;

/** The superblock's first word, little-endian like everything in EROFS. */
export const EROFS_SUPER_MAGIC_V1 = 0xe0f5e1e2;

/** How many of an image's first bytes {@link parseSuperblock} needs: enough for the checksum at any block size. */
export const SUPERBLOCK_HEAD_BYTES = 0x1_0000;

/** Bytes every superblock has; `sb_extslots` adds 16 each. */
const SUPERBLOCK_BYTES = 128;

const MIN_BLOCK_BITS = 9;
const MAX_BLOCK_BITS = 16;

/** A checked superblock. */
export interface Superblock {
  readonly blockSizeBytes: number;
  /** Blocks of the primary device; 0 in images without that number. */
  readonly blocks: number;
  /** Bit masks as on disk, and the names of the bits set. */
  readonly featureCompat: number;
  readonly featureIncompat: number;
  readonly compatFeatures: readonly string[];
  readonly incompatFeatures: readonly string[];
  /** Compression algorithms the image may use, for example ["lz4"]; empty for an uncompressed image. */
  readonly compression: readonly string[];
  /** The number of additional devices with data of this file system. */
  readonly extraDevices: number;
  /** log2 of the directory block size over the block size; every kernel so far requires 0. */
  readonly directoryBlockBits: number;
  /** Lower-case, with dashes; all zeros when mkfs was told not to set it. */
  readonly uuid: string;
  /** Empty if there is none. */
  readonly volumeName: string;
  /** When the image was made, in seconds since 1970. */
  readonly buildTimeSeconds: number;
  readonly inodes: bigint;
  readonly rootNid: bigint;
  /** "beyond-head": it exists, but its block reaches past the given bytes. */
  readonly checksum: "ok" | "absent" | "beyond-head";
}

/**
 * Reads the superblock out of an image's first bytes.
 *
 * @param head the image from its beginning, {@link SUPERBLOCK_HEAD_BYTES} of it or the whole image; not kept
 * @throws ErofsNbdError ERR_NOT_EROFS when the magic is missing, ERR_IMAGE when the superblock is damaged
 */
export function parseSuperblock(head: Uint8Array): Superblock {
  const view = viewOfSuperblock(head);
  const blockBits = view.getUint8(12);
  if (blockBits < MIN_BLOCK_BITS || blockBits > MAX_BLOCK_BITS) {
    throw damaged(`its block size is 2^${blockBits} bytes`);
  }
  const blockSizeBytes = 2 ** blockBits;
  const superblockBytes = SUPERBLOCK_BYTES + 16 * view.getUint8(13);
  if (superblockBytes > Math.max(4096, blockSizeBytes) - EROFS_SUPER_OFFSET) {
    throw damaged(`the superblock claims ${superblockBytes} bytes`);
  }
  const featureCompat = view.getUint32(8, true);
  const featureIncompat = view.getUint32(80, true);
  const { blocks, rootNid } = readExtent(view, featureIncompat);
  if (blocks > Number.MAX_SAFE_INTEGER / blockSizeBytes) {
    throw damaged(`it claims ${blocks} blocks of ${blockSizeBytes} bytes, more than 2^53 bytes`);
  }
  return {
    blockSizeBytes,
    blocks,
    featureCompat,
    featureIncompat,
    compatFeatures: compatNames(featureCompat),
    incompatFeatures: incompatNames(featureIncompat),
    compression: readCompression(view, featureIncompat),
    extraDevices:
      (featureIncompat & EROFS_FEATURE_INCOMPAT_DEVICE_TABLE) === 0 ? 0 : view.getUint16(86, true),
    directoryBlockBits: view.getUint8(90),
    uuid: readUuid(head.subarray(EROFS_SUPER_OFFSET + 48, EROFS_SUPER_OFFSET + 64)),
    volumeName: readName(head.subarray(EROFS_SUPER_OFFSET + 64, EROFS_SUPER_OFFSET + 80)),
    buildTimeSeconds: Number(view.getBigInt64(24, true)) + view.getUint32(108, true),
    inodes: view.getBigUint64(16, true),
    rootNid,
    checksum: verifyChecksum(head, view, featureCompat, blockSizeBytes),
  };
}

/** The least size of the image in bytes; 0 if the superblock does not say. */
export function imageSizeBytes(superblock: Superblock): number {
  return superblock.blocks * superblock.blockSizeBytes;
}

/**
 * Compares the size in the superblock with the size of the file. A longer file is accepted (padding, appended data).
 *
 * @param name the name of the image in the message
 * @throws ErofsNbdError ERR_IMAGE when the image is truncated, naming both sizes
 */
export function checkImageSize(superblock: Superblock, fileSizeBytes: number, name: string): void {
  const wantedBytes = imageSizeBytes(superblock);
  if (fileSizeBytes >= wantedBytes) return;
  throw new ErofsNbdError(
    "ERR_IMAGE",
    `cannot use ${name}: it is truncated, its superblock promises ${wantedBytes} bytes ` +
      `(${superblock.blocks} blocks of ${superblock.blockSizeBytes}) and it has ${fileSizeBytes}`,
    { hint: "copy or download the image again, and compare its checksum with the original's" },
  );
}

/** Whether an image's first bytes contain the EROFS magic. */
export function looksLikeErofs(head: Uint8Array): boolean {
  return (
    head.length >= EROFS_SUPER_OFFSET + 4 &&
    new DataView(head.buffer, head.byteOffset, head.length).getUint32(EROFS_SUPER_OFFSET, true) ===
      EROFS_SUPER_MAGIC_V1
  );
}

function viewOfSuperblock(head: Uint8Array): DataView {
  if (!looksLikeErofs(head)) {
    const why =
      head.length < EROFS_SUPER_OFFSET + SUPERBLOCK_BYTES
        ? `${head.length} bytes are too few for a superblock`
        : `there is no EROFS magic at offset ${EROFS_SUPER_OFFSET}`;
    throw new ErofsNbdError("ERR_NOT_EROFS", `cannot use the image as EROFS: ${why}`, {
      hint: "make EROFS images with mkfs.erofs; any other image can be attached with --block-size",
    });
  }
  if (head.length < EROFS_SUPER_OFFSET + SUPERBLOCK_BYTES) throw damaged("it ends inside its superblock");
  return new DataView(head.buffer, head.byteOffset + EROFS_SUPER_OFFSET, SUPERBLOCK_BYTES);
}

/** With the 48bit feature and a root in its new place, the old root's field holds the block count's upper bits. */
function readExtent(view: DataView, featureIncompat: number): { blocks: number; rootNid: bigint } {
  const blocksLow = view.getUint32(36, true);
  const rootOrBlocksHigh = view.getUint16(14, true);
  const rootNid = view.getBigUint64(112, true);
  if ((featureIncompat & EROFS_FEATURE_INCOMPAT_48BIT) !== 0 && rootNid !== 0n) {
    return { blocks: rootOrBlocksHigh * 2 ** 32 + blocksLow, rootNid };
  }
  return { blocks: blocksLow, rootNid: BigInt(rootOrBlocksHigh) };
}

/** The same two bytes are a bit map of algorithms or, before that existed, LZ4's window. */
function readCompression(view: DataView, featureIncompat: number): string[] {
  const field = view.getUint16(84, true);
  if ((featureIncompat & EROFS_FEATURE_INCOMPAT_COMPR_CFGS) !== 0) {
    return Array.from({ length: 16 }, (_, bit) => bit)
      .filter((bit) => (field & (1 << bit)) !== 0)
      .map((bit) => ALGORITHMS[bit]?.name ?? `algorithm ${bit}`);
  }
  return (featureIncompat & EROFS_FEATURE_INCOMPAT_ZERO_PADDING) !== 0 || field !== 0 ? ["lz4"] : [];
}

/** The checksum covers the superblock to the end of its block; with small blocks, one whole block from 1024 on. */
function verifyChecksum(
  head: Uint8Array,
  view: DataView,
  featureCompat: number,
  blockSizeBytes: number,
): Superblock["checksum"] {
  if ((featureCompat & EROFS_FEATURE_COMPAT_SB_CHKSUM) === 0) return "absent";
  const coveredBytes =
    blockSizeBytes > EROFS_SUPER_OFFSET ? blockSizeBytes - EROFS_SUPER_OFFSET : blockSizeBytes;
  if (head.length < EROFS_SUPER_OFFSET + coveredBytes) return "beyond-head";
  // A copy (a Buffer's slice() is none), because the checksum's own four bytes count as zero.
  const covered = Uint8Array.from(head.subarray(EROFS_SUPER_OFFSET, EROFS_SUPER_OFFSET + coveredBytes));
  covered.fill(0, 4, 8);
  const wanted = view.getUint32(4, true);
  const got = crc32c(0xffff_ffff, covered);
  if (got !== wanted)
    throw damaged(`the superblock's checksum is 0x${got.toString(16)}, not 0x${wanted.toString(16)}`);
  return "ok";
}

function readUuid(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Up to 16 bytes, ended by NUL. Control characters are replaced, to protect terminals. */
function readName(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end === -1 ? bytes : bytes.subarray(0, end)).replace(/\p{Cc}/gu, "\ufffd");
}

function damaged(why: string): ErofsNbdError {
  return new ErofsNbdError("ERR_IMAGE", `cannot use the EROFS image: ${why}`, {
    hint: "the image is damaged or not finished: check it with fsck.erofs, or make it again",
  });
}
