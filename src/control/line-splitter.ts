/**
 * A byte stream cut into lines, for both ends of the control socket.
 *
 * Not readline: that also reports what is left at the end of the stream, and half a request or half an answer of a
 * peer that died must count for nothing. Does no I/O.
 */

export interface LineListener {
  /** One whole line, without its newline. */
  line(text: string): void;
  /** A line is longer than allowed. Called once; nothing more is heard afterwards. */
  tooLong?(): void;
}

export class LineSplitter {
  readonly #listener: LineListener;
  readonly #maxBytes: number;
  #parts: Uint8Array[] = [];
  #partsBytes = 0;
  #stopped = false;

  /** `maxBytes` is the longest line, newline not counted. */
  constructor(listener: LineListener, maxBytes: number = Number.POSITIVE_INFINITY) {
    this.#listener = listener;
    this.#maxBytes = maxBytes;
  }

  /** Takes the next bytes of the stream; they may be kept. */
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

  /** Bytes of a line that has begun and not ended. */
  get pendingBytes(): number {
    return this.#partsBytes;
  }

  /** Nothing more is heard, of what has come or of what comes. */
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
