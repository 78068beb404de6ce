/**
 * CRC-32C (Castagnoli) as the EROFS superblock uses it: seed and result are not inverted.
 *
 * Called by superblock.ts once per image: one table lookup per byte is fast enough for one block.
 */

const POLYNOMIAL_REFLECTED = 0x82f6_3b78;

const TABLE: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) => {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) {
    remainder = (remainder & 1) === 0 ? remainder >>> 1 : (remainder >>> 1) ^ POLYNOMIAL_REFLECTED;
  }
  return remainder;
});

/** Continues the checksum `seed` (0xffffffff to begin with) over `bytes`; the kernel's `crc32c()`. */
export function crc32c(seed: number, bytes: Uint8Array): number {
  let crc = seed >>> 0;
  for (const byte of bytes) crc = (crc >>> 8) ^ (TABLE[(crc ^ byte) & 0xff] as number);
  return crc >>> 0;
}
