/**
 * Limits that the command line checks before it asks and the manager checks again. A file of its own, because the
 * schemas beside it load a library that most commands can do without.
 */

/** The kernel stores timeouts as seconds times HZ in 32 bits. */
export const MAX_TIMEOUT_SECONDS = 2_000_000;
/** Links of one device: more than a machine has processors only stand by. */
export const MAX_CONNECTIONS = 64;
/** 20 minor bits with max_part=0 (nbd.c, nbd_genl_connect). */
export const MAX_INDEX = 1_048_575;
/** How long a worker may say and answer nothing until it counts as hung, unless the device says otherwise. */
export const DEFAULT_HANG_TIMEOUT_MS = 2000;
/** Below this a moment's delay of a busy machine would look like a hang (hang-watch.ts). */
export const MIN_HANG_TIMEOUT_MS = 1500;
/**
 * The largest image. An offset is a number, exact up to 2^53, and the size of a device is a multiple of its blocks, of
 * which the largest have 64 KiB.
 */
export const MAX_IMAGE_BYTES: number = 2 ** 53 - 65_536;
