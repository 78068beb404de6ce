/**
 * The contract of a source: a virtual file that the read-serving loop reads from.
 *
 * The loop checks every range before it calls; a source fills the whole range or fails. It never returns zeros or old
 * bytes for data that it could not get. The bytes at an offset never change while a source is open, because the
 * kernel's page cache relies on it; a source that can go stale detects that and throws.
 */

import type { AllocationMap } from "./allocation-map.ts";

/** A read has failed: its reader gets EIO, the log gets the message. */
export class SourceError extends Error {
  override readonly name = "SourceError";
  readonly code = "ERR_SOURCE";
}

/**
 * The source was touched while it was read: its contents may have been written and restored meanwhile, or only a name
 * or a permission has changed. The data has to be read again, after `renew`.
 */
export class StaleReadError extends SourceError {
  /** Looks at the source: later reads are compared with this look. @throws SourceError */
  readonly renew: () => void;

  constructor(message: string, renew: () => void) {
    super(message);
    this.renew = renew;
  }
}

/** Attempts at a read of a source that is touched all the time. */
const MAX_READS = 4;

/** Reads and verifies, and repeats that if the source was touched meanwhile. @throws SourceError */
export function readSteadily(readAndVerify: () => void): void {
  for (let reads = 1; ; reads += 1) {
    try {
      return readAndVerify();
    } catch (error) {
      if (!(error instanceof StaleReadError) || reads === MAX_READS) throw error;
      error.renew();
    }
  }
}

/** A range of a local file that may be sent from the page cache without a copy. */
export interface FileExtent {
  readonly fd: number;
  readonly offsetBytes: number;
  readonly owner: ExtentOwner;
}

/** The source of an extent, asked again while the extent is being sent. */
export interface ExtentOwner extends Pick<Source, "read" | "verify"> {
  /**
   * Whether pages may still leave by reference; else the rest of the extent is copied, and verified before it leaves.
   */
  readonly mayShare: boolean;
}

export interface Source {
  /** Size of the data; never changes after opening. */
  readonly sizeBytes: number;
  /** Whether `read` returns promises; a source does so always or never. */
  readonly asynchronous: boolean;
  /**
   * Fills all of `target` from `offsetBytes`, now (returns nothing) or later (returns a promise). The range
   * lies inside the source. The buffer is not kept after the read has ended.
   * @throws SourceError, or rejects with one: then `target` must not be used
   */
  read(target: Uint8Array, offsetBytes: number): void | Promise<void>;
  /**
   * Called after the reads of a batch and before any of their bytes leave. Throws if the data is no longer what was
   * opened, so that a change during the reads is detected, too.
   * @throws SourceError; StaleReadError if only reading again can decide that (readSteadily)
   */
  verify(): void;
  /** Where the range lies in a local file, if it may be sent from the page cache; else undefined. */
  extent(offsetBytes: number, lengthBytes: number): FileExtent | undefined;
  /** Where it has holes; undefined if nothing is known about that. */
  readonly allocation?: AllocationMap | undefined;
  /** Releases what the source holds. Called once. */
  close(): void;
}
