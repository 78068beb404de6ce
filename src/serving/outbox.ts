/**
 * The outbox of a link: replies to small reads, gathered so that one verification and one send do for all of them.
 *
 * Used by the read-serving loop. The memory is shared by all links of the process: it is filled and emptied within one
 * wake-up of one link.
 */
import { COOKIE_AT, type ReplyFormat } from "../nbd/reply-format.ts";
import { NBD_EIO, type NbdRequest } from "../nbd/wire.ts";
import { readSteadily, StaleReadError } from "../source/source.ts";
import type { LinkContext } from "./link-context.ts";

/** Most bytes gathered before a send. A larger reply that has to be copied gets a buffer of its own. */
export const OUTBOX_BYTES: number = 256 * 1024;

const memory = new Uint8Array(OUTBOX_BYTES);

export class Outbox {
  readonly #link: LinkContext;
  readonly #format: ReplyFormat;
  #bytes = 0;
  /** Where each reply begins. All carry data. */
  readonly #starts: number[] = [];
  /** Where the data of each comes from, in the source. */
  readonly #offsets: number[] = [];
  /** The journal entries of the requests that are answered. */
  readonly #entries: number[] = [];

  constructor(link: LinkContext) {
    this.#link = link;
    this.#format = link.format;
  }

  /** Whether a reply with so much data can be added before a flush. */
  hasRoom(lengthBytes: number): boolean {
    return this.#bytes + this.#format.headerBytes + lengthBytes <= this.#link.replies.batchBytes;
  }

  /** The memory for the data of the next reply. */
  room(lengthBytes: number): Uint8Array {
    const at = this.#bytes + this.#format.headerBytes;
    return memory.subarray(at, at + lengthBytes);
  }

  /** Adds the reply to a request whose data has been read into `room`. */
  add(request: Readonly<NbdRequest>): void {
    this.#format.encodeHeaderInto(memory, this.#bytes, request);
    this.#starts.push(this.#bytes);
    this.#offsets.push(request.offsetBytes);
    this.#entries.push(this.#link.entry);
    this.#bytes += this.#format.headerBytes + request.lengthBytes;
    this.#link.counters.readBytes += request.lengthBytes;
  }

  /** Verifies the gathered replies and sends them. */
  flush(): void {
    const link = this.#link;
    if (this.#bytes === 0 || !link.isOpen) return;
    try {
      this.#verify();
    } catch (error) {
      this.#turnIntoErrors(error);
    }
    const lengthBytes = this.#bytes;
    this.#bytes = 0;
    this.#starts.length = 0;
    this.#offsets.length = 0;
    link.sent(link.replies.sendBatch(memory, lengthBytes, this.#entries));
    this.#entries.length = 0;
  }

  /** Reads the data again if the source was touched meanwhile. @throws SourceError */
  #verify(): void {
    try {
      this.#link.source.verify();
    } catch (error) {
      if (!(error instanceof StaleReadError)) throw error;
      error.renew();
      readSteadily(() => this.#readAgain());
    }
  }

  #readAgain(): void {
    const { source } = this.#link;
    this.#starts.forEach((start, index) => {
      const end = this.#starts[index + 1] ?? this.#bytes;
      const data = memory.subarray(start + this.#format.headerBytes, end);
      void source.read(data, this.#offsets[index] as number);
    });
    source.verify();
  }

  /** Drops the data, which failed verification, and makes each header an error. */
  #turnIntoErrors(error: unknown): void {
    const { errorBytes } = this.#format;
    this.#starts.forEach((start, index) => {
      const cookie = new DataView(memory.buffer, start + COOKIE_AT);
      this.#format.encodeErrorInto(
        memory,
        index * errorBytes,
        NBD_EIO,
        cookie.getUint32(0),
        cookie.getUint32(4),
      );
    });
    this.#bytes = this.#starts.length * errorBytes;
    this.#link.countErrors(error, this.#starts.length);
  }
}
