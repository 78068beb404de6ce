/**
 * Turns bytes that arrive in any split into whole NBD requests, in one inbox of fixed size.
 *
 * The read-serving loop receives straight into `inbox` at `receiveAt`, reports how much came, and takes requests until
 * there is none. Payloads are skipped across any number of receives without being stored. The framer never allocates
 * per request, never grows the inbox, and never goes on after a wrong magic.
 */

import { NbdProtocolError } from "./protocol-error.ts";
import { decodeRequestInto, NBD_REQUEST_MAGIC, type NbdRequest, REQUEST_BYTES } from "./wire.ts";

/**
 * One link's incoming side.
 *
 * @example
 * ```ts
 * const framer = new RequestFramer(new Uint8Array(65536));
 * const count = receive(fd, framer.inbox, framer.receiveAt, framer.space);
 * framer.received(count);
 * while (framer.next(request)) answer(request);
 * ```
 */
export class RequestFramer {
  /** The bytes that have been received and not consumed. */
  readonly inbox: Uint8Array;
  /** The unread part of the inbox is [#start, #end). */
  #start = 0;
  #end = 0;
  /** Payload bytes still to be dropped; only ever above 0 while the inbox is empty. */
  #skip = 0;
  /** Stream position of inbox[#start], for error messages. */
  #position = 0;

  /** @param inbox at least {@link REQUEST_BYTES} long; kept: the caller must write only at `receiveAt`. */
  constructor(inbox: Uint8Array) {
    if (inbox.length < REQUEST_BYTES) {
      throw new RangeError(
        `cannot frame requests: the inbox has ${inbox.length} bytes, a request needs ${REQUEST_BYTES}`,
      );
    }
    this.inbox = inbox;
  }

  /** Index in the inbox where the next bytes belong. */
  get receiveAt(): number {
    return this.#end;
  }

  /** How many bytes may be received now: above 0 whenever {@link next} has just returned false. */
  get space(): number {
    return this.inbox.length - this.#end;
  }

  /** Bytes received and neither taken as a request nor skipped. */
  get bufferedBytes(): number {
    return this.#end - this.#start;
  }

  /** Payload bytes that are still to come and will be dropped. */
  get skippingBytes(): number {
    return this.#skip;
  }

  /** Reports that `count` bytes now lie at {@link receiveAt}. */
  received(count: number): void {
    if (!(count >= 0 && count <= this.space)) {
      throw new RangeError(`cannot take ${count} received bytes: the inbox has room for ${this.space}`);
    }
    this.#end += count;
    if (this.#skip > 0) this.#drop();
  }

  /**
   * Decodes the next whole request into `request` and consumes it; its payload, if any, comes next in the stream.
   *
   * @returns false when the rest of the inbox holds no whole request: receive more.
   * @throws NbdProtocolError on a wrong magic, now and at every later call.
   */
  next(request: NbdRequest): boolean {
    const start = this.#start;
    if (this.#end - start < REQUEST_BYTES) {
      this.#makeRoom();
      return false;
    }
    if (!decodeRequestInto(request, this.inbox, start)) throw this.#badMagic();
    this.#start = start + REQUEST_BYTES;
    this.#position += REQUEST_BYTES;
    return true;
  }

  /** Consumes the next `lengthBytes` bytes of the stream, those already here and those still to come. */
  skip(lengthBytes: number): void {
    this.#skip += lengthBytes;
    this.#drop();
  }

  #drop(): void {
    const dropped = Math.min(this.#skip, this.#end - this.#start);
    this.#start += dropped;
    this.#skip -= dropped;
    this.#position += dropped;
    if (this.#start === this.#end) this.#makeRoom();
  }

  /** An empty inbox starts over for free; a cut request is moved only when little room is left behind it. */
  #makeRoom(): void {
    if (this.#start === this.#end) {
      this.#start = 0;
      this.#end = 0;
    } else if (this.#start > 0 && this.space < this.inbox.length >> 1) {
      this.inbox.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
  }

  #badMagic(): NbdProtocolError {
    const got = Array.from(this.inbox.subarray(this.#start, this.#start + 4), (byte) =>
      byte.toString(16).padStart(2, "0"),
    ).join("");
    return new NbdProtocolError(
      `cannot read an NBD request at byte ${this.#position} of the stream: ` +
        `it starts with 0x${got}, not 0x${NBD_REQUEST_MAGIC.toString(16)}`,
      this.#position,
    );
  }
}
