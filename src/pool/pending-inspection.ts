/**
 * The answer to an `inspect` request: the pieces of the source's first bytes, then what the source is.
 */
import type { InspectedSource } from "../worker-protocol/messages.ts";

/** The requested head is at most a superblock; a worker that sends more pieces than that needs is ignored. */
const MAX_PIECES = 16;

export class PendingInspection {
  readonly #pieces: Uint8Array[] = [];
  #settle: ((found: InspectedSource | Error | undefined) => void) | undefined;

  /** Resolves with `settle`'s argument. */
  expect(): Promise<InspectedSource | Error | undefined> {
    return new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /** A piece of the head, in base64. */
  add(piece: string): void {
    if (this.#pieces.length < MAX_PIECES) this.#pieces.push(Buffer.from(piece, "base64"));
  }

  /** `undefined`: the worker died. */
  settle(found: InspectedSource | Error | undefined): void {
    this.#settle?.(found);
  }

  head(lengthBytes: number): Uint8Array {
    return Buffer.concat(this.#pieces).subarray(0, lengthBytes);
  }
}
