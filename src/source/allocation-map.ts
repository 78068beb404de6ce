/**
 * Where a file has data and where it has holes, which read as zeros: asked of the file system once per extent, with
 * SEEK_DATA and SEEK_HOLE, and remembered.
 *
 * Owned by FileSource, whose bytes never change: a hole reads as zeros even after another program has filled it with
 * them. It is forgotten whenever the file was touched.
 */
import { ERRNO } from "../sys/errno.ts";
import { lseek, SEEK_DATA, SEEK_HOLE } from "../sys/libc/files.ts";

/** A part of a source that is data throughout, or zeros throughout. */
export interface AllocatedExtent {
  readonly startBytes: number;
  readonly endBytes: number;
  readonly isHole: boolean;
}

/** A few megabytes. A file with more extents is asked about again. */
const MAX_EXTENTS = 65_536;

export class AllocationMap {
  readonly #fd: number;
  readonly #sizeBytes: number;
  /** In order, without overlaps; what lies between them has not been asked for. */
  #extents: AllocatedExtent[] = [];
  #last: AllocatedExtent | undefined;

  constructor(fd: number, sizeBytes: number) {
    this.#fd = fd;
    this.#sizeBytes = sizeBytes;
  }

  /** The extent around an offset inside the file; its beginning may lie further ahead than `startBytes` says. */
  at(offsetBytes: number): AllocatedExtent {
    const last = this.#last;
    if (last !== undefined && last.startBytes <= offsetBytes && offsetBytes < last.endBytes) return last;
    const index = this.#indexBehind(offsetBytes);
    const before = this.#extents[index - 1];
    this.#last =
      before !== undefined && offsetBytes < before.endBytes ? before : this.#learn(offsetBytes, index);
    return this.#last;
  }

  forget(): void {
    this.#extents = [];
    this.#last = undefined;
  }

  /** How many extents begin at or before an offset. */
  #indexBehind(offsetBytes: number): number {
    let from = 0;
    let to = this.#extents.length;
    while (from < to) {
      const middle = (from + to) >> 1;
      if ((this.#extents[middle] as AllocatedExtent).startBytes <= offsetBytes) from = middle + 1;
      else to = middle;
    }
    return from;
  }

  /** Asks for the extent at an offset, and notes it before that with this index. */
  #learn(offsetBytes: number, index: number): AllocatedExtent {
    const found = this.#ask(offsetBytes);
    if (this.#extents.length >= MAX_EXTENTS) {
      this.#extents = [found];
      return found;
    }
    // The end of an extent is exact: one that begins inside of this one is its rest, asked for before.
    const next = this.#extents[index];
    const isRest = next !== undefined && next.startBytes < found.endBytes;
    this.#extents.splice(index, isRest ? 1 : 0, found);
    return found;
  }

  #ask(startBytes: number): AllocatedExtent {
    const dataBytes = lseek(this.#fd, startBytes, SEEK_DATA);
    if (dataBytes > startBytes || dataBytes === -ERRNO.ENXIO)
      return { startBytes, endBytes: this.#clamp(dataBytes, startBytes), isHole: true };
    // A file system that cannot tell has data everywhere.
    const holeBytes = dataBytes < 0 ? dataBytes : lseek(this.#fd, startBytes, SEEK_HOLE);
    return { startBytes, endBytes: this.#clamp(holeBytes, startBytes), isHole: false };
  }

  #clamp(endBytes: number, startBytes: number): number {
    return endBytes > startBytes ? Math.min(endBytes, this.#sizeBytes) : this.#sizeBytes;
  }
}
