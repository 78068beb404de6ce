/**
 * Block device properties that only ioctls report: the size, and the sequence number of the disk.
 *
 * linux/fs.h, BLKGETSIZE64 and BLKGETDISKSEQ; the numbers are the same on every architecture with the generic ioctl
 * encoding.
 */
import { check } from "./libc/bind.ts";
import { ioctlInto } from "./libc/files.ts";

const BLKGETSIZE64 = 0x80081272;
const BLKGETDISKSEQ = 0x80081280;

/** The size of an open block device. @throws SystemError */
export function blockDeviceSizeBytes(fd: number): number {
  const size = new BigUint64Array(1);
  check("ioctl BLKGETSIZE64", ioctlInto(fd, BLKGETSIZE64, new Uint8Array(size.buffer)));
  return Number(size[0]);
}

/**
 * A number that is unique during this boot. It changes with the medium or the file behind the disk. Undefined before
 * Linux 5.15.
 */
export function diskSequence(fd: number): bigint | undefined {
  const sequence = new BigUint64Array(1);
  return ioctlInto(fd, BLKGETDISKSEQ, new Uint8Array(sequence.buffer)) < 0 ? undefined : sequence[0];
}
