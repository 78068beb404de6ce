/**
 * The contract of a virtual file: what the read-serving loop asks of a source, and what it never has to ask.
 *
 * The loop checks every range before it calls; a source fills the whole range or fails. It never answers with
 * zeros or old bytes for data that it could not get. The bytes at an offset never change while a source is
 * open (the page cache above relies on it), so a source that can go stale finds that out and throws.
 */

/** A read that could not be answered; the kernel's reader gets EIO, the log gets the reason. */
export class SourceError extends Error {
  override readonly name = "SourceError";
  readonly code = "ERR_SOURCE";
}

/**
 * The source was touched while it was read: its contents may have been written and put back meanwhile, or only a name
 * or a right of it has changed. What was read is to be read again, after `renew`.
 */
export class StaleReadError extends SourceError {
  /** Looks at the source: what is read from now on is compared with this look. @throws SourceError */
  readonly renew: () => void;

  constructor(message: string, renew: () => void) {
    super(message);
    this.renew = renew;
  }
}

/** A source that is touched all the time is read so often at most. */
const MAX_READS = 4;

/** Reads and verifies, again where the source was touched meanwhile. @throws SourceError */
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

/** Bytes of the local file that may be sent from the page cache without being copied. */
export interface FileExtent {
  readonly fd: number;
  readonly offsetBytes: number;
  readonly owner: ExtentOwner;
}

/** The source of an extent, asked again while the extent is on its way. */
export interface ExtentOwner extends Pick<Source, "read" | "verify"> {
  /** Whether pages may still leave by reference; else what is left of the extent is copied, and verified before it leaves. */
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
   * @throws SourceError, or rejects with one: nothing of `target` may be used then
   */
  read(target: Uint8Array, offsetBytes: number): void | Promise<void>;
  /**
   * Called after the reads of a batch and before any of their bytes leave: throws when the data is no longer
   * what was opened, so that a change made during the reads is seen too.
   * @throws SourceError; StaleReadError where that cannot be told, and reading again can (readSteadily)
   */
  verify(): void;
  /** Where the range lies in a local file, if it may be sent straight from there; else undefined. */
  extent(offsetBytes: number, lengthBytes: number): FileExtent | undefined;
  /** Releases what the source holds. Called once. */
  close(): void;
}
