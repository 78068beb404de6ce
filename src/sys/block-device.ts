/**
 * What only an ioctl knows of a block device: its size.
 *
 * linux/fs.h, BLKGETSIZE64; the number is the same on every architecture with the generic ioctl encoding.
 */
import { check, ioctlInto } from "./libc.ts";

const BLKGETSIZE64 = 0x80081272;

/** The size of an open block device. @throws SystemError */
export function blockDeviceSizeBytes(fd: number): number {
  const size = new BigUint64Array(1);
  check("ioctl BLKGETSIZE64", ioctlInto(fd, BLKGETSIZE64, new Uint8Array(size.buffer)));
  return Number(size[0]);
}
