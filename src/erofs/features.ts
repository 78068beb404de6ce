/**
 * The EROFS features that decide whether a kernel can mount an image: bit, name, and first Linux release.
 *
 * Used by superblock.ts (names) and mountable.ts (checks). Some bits stand for two features that came with the same
 * release or are told apart by another field; the table says which. The running kernel is not asked.
 *
 * Sources: fs/erofs/erofs_fs.h (up to 6.17) for bits; the merges that brought them into Linux for releases.
 */

/** feature_compat bits: an older kernel mounts the image all the same. */
export const EROFS_FEATURE_COMPAT_SB_CHKSUM = 0x0000_0001;

/** feature_incompat bits that other files use. */
export const EROFS_FEATURE_INCOMPAT_ZERO_PADDING = 0x0000_0001;
export const EROFS_FEATURE_INCOMPAT_COMPR_CFGS = 0x0000_0002;
export const EROFS_FEATURE_INCOMPAT_DEVICE_TABLE = 0x0000_0008;
export const EROFS_FEATURE_INCOMPAT_48BIT = 0x0000_0080;

/** A Linux release: [5, 4] is Linux 5.4. */
export type LinuxRelease = readonly [major: number, minor: number];

/** A feature that an image may need from the kernel. */
export interface KernelNeed {
  /** As in /sys/fs/erofs/features, if the kernel has such a file. */
  readonly name: string;
  /** The first release that mounts it. */
  readonly since: LinuxRelease;
}

/** The release in which EROFS left staging: nothing older mounts today's images. */
export const FIRST_RELEASE: LinuxRelease = [5, 4];

/** From this release on blocks may be smaller than a page. */
export const SUB_PAGE_SINCE: LinuxRelease = [6, 4];

/** From this release on that holds for compressed images too. */
export const SUB_PAGE_COMPRESSED_SINCE: LinuxRelease = [6, 8];

const COMPAT: ReadonlyMap<number, string> = new Map([
  [EROFS_FEATURE_COMPAT_SB_CHKSUM, "sb_chksum"],
  [0x0000_0002, "mtime"],
  [0x0000_0004, "xattr_filter"],
  [0x0000_0008, "shared_ea_in_metabox"],
  [0x0000_0010, "plain_xattr_pfx"],
  [0x0000_0020, "ishare_xattrs"],
]);

const INCOMPAT: ReadonlyMap<number, readonly KernelNeed[]> = new Map([
  [EROFS_FEATURE_INCOMPAT_ZERO_PADDING, [{ name: "zero_padding", since: [5, 4] }]],
  // One bit: compression settings on disk, and clusters above one block. Both came in 5.13.
  [
    EROFS_FEATURE_INCOMPAT_COMPR_CFGS,
    [
      { name: "compr_cfgs", since: [5, 13] },
      { name: "big_pcluster", since: [5, 13] },
    ],
  ],
  [0x0000_0004, [{ name: "chunked_file", since: [5, 15] }]],
  // One bit: a table of further devices, and a second compression algorithm per file. Both came in 5.16.
  [
    EROFS_FEATURE_INCOMPAT_DEVICE_TABLE,
    [
      { name: "device_table", since: [5, 16] },
      { name: "compr_head2", since: [5, 16] },
    ],
  ],
  [0x0000_0010, [{ name: "ztailpacking", since: [5, 17] }]],
  // One bit: file tails in a packed inode, and clusters shared between files. Both came in 6.1.
  [
    0x0000_0020,
    [
      { name: "fragments", since: [6, 1] },
      { name: "dedupe", since: [6, 1] },
    ],
  ],
  [0x0000_0040, [{ name: "xattr_prefixes", since: [6, 4] }]],
  [EROFS_FEATURE_INCOMPAT_48BIT, [{ name: "48bit", since: [6, 15] }]],
  [0x0000_0100, [{ name: "metabox", since: [6, 17] }]],
]);

/** Compression algorithms by their bit number in `available_compr_algs`. */
export const ALGORITHMS: readonly KernelNeed[] = [
  { name: "lz4", since: [5, 4] },
  { name: "lzma", since: [5, 16] },
  { name: "deflate", since: [6, 6] },
  { name: "zstd", since: [6, 10] },
];

/** Names of the feature_compat bits that are set; an unknown bit is named by its value. */
export function compatNames(bits: number): string[] {
  return setBits(bits).map((bit) => COMPAT.get(bit) ?? `0x${bit.toString(16)}`);
}

/** Names of the feature_incompat bits that are set; a bit with two meanings gives both. */
export function incompatNames(bits: number): string[] {
  return setBits(bits).flatMap(
    (bit) => INCOMPAT.get(bit)?.map((need) => need.name) ?? [`0x${bit.toString(16)}`],
  );
}

/** The needs of the known feature_incompat bits that are set; a bit with two meanings counts once, by the first. */
export function incompatNeeds(bits: number): KernelNeed[] {
  return setBits(bits).flatMap((bit) => INCOMPAT.get(bit)?.slice(0, 1) ?? []);
}

/** The feature_incompat bits that are set and that this table does not know. */
export function unknownIncompat(bits: number): number {
  return setBits(bits)
    .filter((bit) => !INCOMPAT.has(bit))
    .reduce((sum, bit) => sum + bit, 0);
}

function setBits(bits: number): number[] {
  return Array.from({ length: 32 }, (_, index) => 2 ** index).filter((bit) => (bits & bit) >>> 0 !== 0);
}
