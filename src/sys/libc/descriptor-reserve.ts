/**
 * Descriptors that are held in reserve, so that the recovery of a link is not refused one when none is left.
 *
 * The pool fills the reserve while all is well. `acquire` spends it where descriptors run out.
 */
import { closeSync, openSync } from "node:fs";
import { ERRNO, hasErrno } from "../errno.ts";

/** What a fresh link needs more than a dead one gives back, for a few links at a time. */
const SIZE = 8;
const reserve: number[] = [];

/** Fills the reserve as far as descriptors are available. */
export function fillReserve(): void {
  try {
    while (reserve.length < SIZE) reserve.push(openSync("/dev/null", "r"));
  } catch {
    // None is left now.
  }
}

/** Gives the reserve up. */
export function dropReserve(): void {
  for (const fd of reserve.splice(0)) closeSync(fd);
}

/** Runs `work`, and once more without the reserve if it fails for lack of a descriptor. @throws as `work` */
export function acquire<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!hasErrno(error, ERRNO.EMFILE, ERRNO.ENFILE) || reserve.length === 0) throw error;
    dropReserve();
    return work();
  }
}
