/**
 * The bytes a device must give: those of its image, and zeros from the image's end to the device's.
 *
 * Used by the reader process, which opens the image itself: nothing of the stack under test is between them. Reads are
 * plain system calls in this thread; the worker has just read the same range, so they come from the page cache.
 */
import { SystemError } from "../../sys/errno.ts";
import { pread } from "../../sys/libc/files.ts";

/** Where and how a read differed from the image. */
export interface Difference {
  /** On the device, of the first byte that differs. */
  readonly offsetBytes: number;
  readonly wrongBytes: number;
  readonly wanted: number;
  readonly got: number;
}

export class ImageReference {
  readonly #fd: number;
  readonly #sizeBytes: number;
  readonly #wanted: Uint8Array;

  /** `sizeBytes` is the image's when it was attached; no range longer than `longestBytes` will be asked for. */
  constructor(fd: number, sizeBytes: number, longestBytes: number) {
    this.#fd = fd;
    this.#sizeBytes = sizeBytes;
    this.#wanted = new Uint8Array(longestBytes);
  }

  /**
   * Compares what was read at an offset with what is there in the image; undefined when every byte fits.
   * @throws Error when the image cannot be read, or has become shorter
   */
  compare(offsetBytes: number, got: Uint8Array): Difference | undefined {
    const wanted = this.#fill(offsetBytes, got.length);
    if (Buffer.compare(wanted, got) === 0) return undefined;
    let first = -1;
    let wrongBytes = 0;
    for (let at = 0; at < got.length; at += 1) {
      if (got[at] === wanted[at]) continue;
      if (first < 0) first = at;
      wrongBytes += 1;
    }
    return {
      offsetBytes: offsetBytes + first,
      wrongBytes,
      wanted: wanted[first] ?? 0,
      got: got[first] ?? 0,
    };
  }

  #fill(offsetBytes: number, lengthBytes: number): Uint8Array {
    const wanted = this.#wanted.subarray(0, lengthBytes);
    const fromImage = Math.max(0, Math.min(lengthBytes, this.#sizeBytes - offsetBytes));
    for (let filled = 0; filled < fromImage; ) {
      const rest = wanted.subarray(filled, fromImage);
      const count = pread(this.#fd, rest, rest.length, offsetBytes + filled);
      if (count < 0) throw new SystemError("pread", -count, "the image");
      if (count === 0) throw new Error(`cannot compare: the image ends at ${offsetBytes + filled} by now`);
      filled += count;
    }
    wanted.fill(0, fromImage);
    return wanted;
  }
}
