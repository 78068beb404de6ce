/**
 * Splits a byte stream into lines, for both ends of the control socket. Does no I/O.
 *
 * readline is unsuitable, because it also reports an incomplete line at the end of the stream: an incomplete request or
 * answer of a peer that has died must be ignored.
 */

export interface LineListener {
  /** A complete line without its newline. */
  line(text: string): void;
  /** A line exceeds the limit. Called once; the rest of the stream is ignored. */
  tooLong?(): void;
}

export class LineSplitter {
  readonly #listener: LineListener;
  readonly #maxBytes: number;
  #parts: Uint8Array[] = [];
  #partsBytes = 0;
  #stopped = false;

  /** `maxBytes` limits the length of a line without its newline. */
  constructor(listener: LineListener, maxBytes: number = Number.POSITIVE_INFINITY) {
    this.#listener = listener;
    this.#maxBytes = maxBytes;
  }

  /** Takes the next bytes of the stream. The buffer may be kept. */
  push(chunk: Uint8Array): void {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0 && !this.#stopped; end = rest.indexOf(10)) {
      if (!this.#keep(rest.subarray(0, end))) return;
      const line = Buffer.concat(this.#parts).toString("utf8");
      this.#parts = [];
      this.#partsBytes = 0;
      rest = rest.subarray(end + 1);
      this.#listener.line(line);
    }
    if (rest.length > 0 && !this.#stopped) this.#keep(rest);
  }

  /** Bytes of an incomplete line. */
  get pendingBytes(): number {
    return this.#partsBytes;
  }

  /** Ignores buffered and further data. */
  stop(): void {
    this.#stopped = true;
    this.#parts = [];
    this.#partsBytes = 0;
  }

  #keep(part: Uint8Array): boolean {
    this.#parts.push(part);
    this.#partsBytes += part.length;
    if (this.#partsBytes <= this.#maxBytes) return true;
    this.stop();
    this.#listener.tooLong?.();
    return false;
  }
}
