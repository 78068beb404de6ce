/**
 * Which range of the device the reader reads next: small reads anywhere, large ones from the beginning to the end.
 *
 * Each of the reader's slots keeps to one of the two. The large ones share one position, so that together they pass
 * over every byte of the device, again and again. Ranges are whole units, as O_DIRECT requires. Pure.
 */

export interface Range {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export const SMALL_READ_BYTES = 4096;
export const LARGE_READ_BYTES: number = 1 << 20;

export class ReadPattern {
  /** What offsets and lengths are multiples of: a small read, or the device's block where that is larger. */
  readonly unitBytes: number;
  readonly #sizeBytes: number;
  readonly #largeSlots: number;
  readonly #random: () => number;
  #position = 0;

  /** `sizeBytes` is the device's; slots 0 to `largeSlots` - 1 read large. */
  constructor(sizeBytes: number, blockSizeBytes: number, largeSlots: number, random: () => number) {
    this.unitBytes = Math.max(SMALL_READ_BYTES, blockSizeBytes);
    this.#sizeBytes = sizeBytes;
    this.#largeSlots = largeSlots;
    this.#random = random;
  }

  /** The longest range there can be. */
  get longestBytes(): number {
    return Math.max(LARGE_READ_BYTES, this.unitBytes);
  }

  next(slot: number): Range {
    return slot < this.#largeSlots ? this.#nextLarge() : this.#nextSmall();
  }

  #nextLarge(): Range {
    const offsetBytes = this.#position;
    const lengthBytes = Math.min(this.longestBytes, this.#sizeBytes - offsetBytes);
    const end = offsetBytes + lengthBytes;
    this.#position = end >= this.#sizeBytes ? 0 : end;
    return { offsetBytes, lengthBytes };
  }

  #nextSmall(): Range {
    const units = Math.ceil(this.#sizeBytes / this.unitBytes);
    const offsetBytes = Math.floor(this.#random() * units) * this.unitBytes;
    return { offsetBytes, lengthBytes: Math.min(this.unitBytes, this.#sizeBytes - offsetBytes) };
  }
}
