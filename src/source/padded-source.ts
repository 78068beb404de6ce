/**
 * A source rounded up to whole blocks: zeros from the end of the image to the end of its last block.
 *
 * The kernel needs a device of whole blocks (6.12 and later fail a read of a partial last block), but an image may end
 * inside one. Nothing but this padding is ever filled with zeros.
 */
import type { FileExtent, Source } from "./source.ts";

/** `source`, padded to a multiple of `blockSizeBytes` if its size is none. */
export function padToBlocks(source: Source, blockSizeBytes: number): Source {
  const sizeBytes = paddedSizeBytes(source.sizeBytes, blockSizeBytes);
  return sizeBytes === source.sizeBytes ? source : new PaddedSource(source, sizeBytes);
}

/** `sizeBytes` rounded up to whole blocks. */
export function paddedSizeBytes(sizeBytes: number, blockSizeBytes: number): number {
  return Math.ceil(sizeBytes / blockSizeBytes) * blockSizeBytes;
}

class PaddedSource implements Source {
  readonly sizeBytes: number;
  readonly asynchronous: boolean;
  readonly #inner: Source;

  constructor(inner: Source, sizeBytes: number) {
    this.#inner = inner;
    this.sizeBytes = sizeBytes;
    this.asynchronous = inner.asynchronous;
  }

  read(target: Uint8Array, offsetBytes: number): void | Promise<void> {
    const dataBytes = Math.max(0, Math.min(target.length, this.#inner.sizeBytes - offsetBytes));
    if (dataBytes === target.length) return this.#inner.read(target, offsetBytes);
    target.fill(0, dataBytes);
    if (dataBytes > 0) return this.#inner.read(target.subarray(0, dataBytes), offsetBytes);
  }

  verify(): void {
    this.#inner.verify();
  }

  extent(offsetBytes: number, lengthBytes: number): FileExtent | undefined {
    const inside = offsetBytes + lengthBytes <= this.#inner.sizeBytes;
    return inside ? this.#inner.extent(offsetBytes, lengthBytes) : undefined;
  }

  close(): void {
    this.#inner.close();
  }
}
