/**
 * EROFS superblocks written byte by byte, for what no mkfs.erofs at hand makes: features of newer kernels, damage.
 *
 * The checksum comes from node's zlib-free bitwise CRC below, not from src/erofs, so that both cannot share a mistake.
 */

/** Fields of a superblock; what is left out is 0. Numbers are little-endian on disk. */
export interface SuperblockFields {
  readonly magic?: number;
  readonly featureCompat?: number;
  readonly blockBits?: number;
  readonly extensionSlots?: number;
  readonly rootNidOrBlocksHigh?: number;
  readonly inodes?: bigint;
  readonly epochSeconds?: bigint;
  readonly blocksLow?: number;
  readonly uuid?: string;
  readonly volumeName?: string;
  readonly featureIncompat?: number;
  readonly algorithms?: number;
  readonly extraDevices?: number;
  readonly directoryBlockBits?: number;
  readonly buildTimeSeconds?: number;
  readonly rootNid8?: bigint;
}

/** An image's head of `headBytes` with that superblock, its checksum correct when the feature bit asks for one. */
export function headWith(fields: SuperblockFields, headBytes = 4096): Uint8Array {
  const head = new Uint8Array(headBytes);
  const view = new DataView(head.buffer, 1024);
  const blockBits = fields.blockBits ?? 12;
  view.setUint32(0, fields.magic ?? 0xe0f5e1e2, true);
  view.setUint32(8, fields.featureCompat ?? 0, true);
  view.setUint8(12, blockBits);
  view.setUint8(13, fields.extensionSlots ?? 0);
  view.setUint16(14, fields.rootNidOrBlocksHigh ?? 36, true);
  view.setBigUint64(16, fields.inodes ?? 0n, true);
  view.setBigInt64(24, fields.epochSeconds ?? 0n, true);
  view.setUint32(36, fields.blocksLow ?? 0, true);
  head.set(Buffer.from((fields.uuid ?? "").replaceAll("-", ""), "hex"), 1024 + 48);
  head.set(Buffer.from(fields.volumeName ?? ""), 1024 + 64);
  view.setUint32(80, fields.featureIncompat ?? 0, true);
  view.setUint16(84, fields.algorithms ?? 0, true);
  view.setUint16(86, fields.extraDevices ?? 0, true);
  view.setUint8(90, fields.directoryBlockBits ?? 0);
  view.setUint32(108, fields.buildTimeSeconds ?? 0, true);
  view.setBigUint64(112, fields.rootNid8 ?? 0n, true);
  if (((fields.featureCompat ?? 0) & 1) !== 0) {
    const block = 2 ** blockBits;
    const covered = head.subarray(1024, 1024 + (block > 1024 ? block - 1024 : block));
    view.setUint32(4, bitwiseCrc32c(covered), true);
  }
  return head;
}

/** CRC-32C bit by bit, without the final inversion. */
export function bitwiseCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    for (let bit = 0; bit < 8; bit++) {
      const carry = ((crc ^ (byte >>> bit)) & 1) !== 0;
      crc = carry ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    }
  }
  return crc >>> 0;
}
