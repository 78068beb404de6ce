/**
 * A queue of received bytes for the two handshakes: bytes are appended in any split, whole messages are taken.
 *
 * Both handshakes take every whole message at once and refuse long ones by their header, so the queue holds at most one
 * incomplete message. The transmission phase has the request framer instead.
 */

/** A growing byte buffer read from the front; all numbers in it are big-endian. */
export class ByteQueue {
  #bytes: Uint8Array = new Uint8Array(256);
  #view: DataView = new DataView(this.#bytes.buffer);
  #start = 0;
  #end = 0;

  /** Bytes waiting. */
  get length(): number {
    return this.#end - this.#start;
  }

  /** Appends a copy of `bytes`. */
  push(bytes: Uint8Array): void {
    if (this.#end + bytes.length > this.#bytes.length) this.#makeRoom(bytes.length);
    this.#bytes.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  /** The 16-bit number `at` bytes from the front; the caller has checked the length. */
  u16(at: number): number {
    return this.#view.getUint16(this.#start + at);
  }

  /** The 32-bit number `at` bytes from the front. */
  u32(at: number): number {
    return this.#view.getUint32(this.#start + at);
  }

  /** The 64-bit number `at` bytes from the front. */
  u64(at: number): bigint {
    return this.#view.getBigUint64(this.#start + at);
  }

  /** Removes the first `count` bytes and returns a copy of them. */
  take(count: number): Uint8Array {
    const taken = this.#bytes.slice(this.#start, this.#start + count);
    this.#start += count;
    return taken;
  }

  /** A copy of everything waiting. */
  get rest(): Uint8Array {
    return this.#bytes.slice(this.#start, this.#end);
  }

  #makeRoom(count: number): void {
    const needed = this.length + count;
    const target =
      needed > this.#bytes.length ? new Uint8Array(Math.max(needed, 2 * this.#bytes.length)) : this.#bytes;
    target.set(this.#bytes.subarray(this.#start, this.#end));
    this.#end -= this.#start;
    this.#start = 0;
    this.#bytes = target;
    this.#view = new DataView(target.buffer);
  }
}

/** Joins pieces into one new array. */
export function concatBytes(pieces: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined;
}
