/**
 * The kernel's side of a link whose image is all one byte, for tests that overwrite it with another: it reads replies
 * when the test says so, and tells right ones from wrong ones and errors.
 */
import type { OpenLink } from "../../../src/supervisor/ports.ts";
import { MSG_DONTWAIT, MSG_NOSIGNAL, recv, send } from "../../../src/sys/libc/sockets.ts";
import { until } from "../until.ts";
import { requestHeader } from "./mini-nbd-client.ts";

export const IMAGE_BYTES: number = 2 << 20;
export const READ_BYTES: number = 256 * 1024;
export const GOOD: Buffer = Buffer.alloc(IMAGE_BYTES, 0x5a);
export const BAD: Buffer = Buffer.alloc(IMAGE_BYTES, 0xa5);

export class OneByteReader {
  readonly link: OpenLink;
  #held = Buffer.alloc(0);
  #asked = 0;
  right = 0;
  wrong = 0;
  errors = 0;

  constructor(link: OpenLink) {
    this.link = link;
  }

  get inFlight(): number {
    return this.#asked - this.right - this.wrong - this.errors;
  }

  ask(count: number): void {
    for (let at = 0; at < count; at += 1, this.#asked += 1) {
      const request = requestHeader(
        0,
        0,
        BigInt(this.#asked),
        BigInt((this.#asked * READ_BYTES) % IMAGE_BYTES),
        READ_BYTES,
      );
      const sent = send(this.link.kernelFd, request, request.length, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent !== request.length) throw new Error(`the socket took ${sent} bytes of a request`);
    }
  }

  /** Reads and checks all replies to what was asked. */
  async hear(): Promise<void> {
    await until("all replies have come", () => {
      this.hearSome(Number.POSITIVE_INFINITY);
      return this.inFlight === 0;
    });
  }

  /** Reads and checks what is there, so many bytes at most. */
  hearSome(maxBytes: number): void {
    const piece = Buffer.alloc(64 * 1024);
    for (let left = maxBytes; left > 0; ) {
      const got = recv(this.link.kernelFd, piece, Math.min(left, piece.length), MSG_DONTWAIT);
      if (got <= 0) return;
      this.#take(piece.subarray(0, got));
      left -= got;
    }
  }

  #take(bytes: Buffer): void {
    this.#held = Buffer.concat([this.#held, bytes]);
    for (;;) {
      if (this.#held.length < 16) return;
      const failed = this.#held.readUInt32BE(4) !== 0;
      const length = failed ? 16 : 16 + READ_BYTES;
      if (this.#held.length < length) return;
      if (failed) this.errors += 1;
      else if (this.#held.subarray(16, length).equals(GOOD.subarray(0, READ_BYTES))) this.right += 1;
      else this.wrong += 1;
      this.#held = this.#held.subarray(length);
    }
  }
}
