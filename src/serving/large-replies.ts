/**
 * Replies that do not go through the outbox: large ones straight from the page cache, and those that need a buffer of
 * their own because they are too large, have to wait, or must be read again.
 *
 * Used by the read-serving loop.
 */
import { type ReplyFormat, STRUCTURED_REPLIES } from "../nbd/reply-format.ts";
import type { NbdRequest } from "../nbd/wire.ts";
import { readSteadily } from "../source/source.ts";
import type { LinkContext } from "./link-context.ts";
import type { Outbox } from "./outbox.ts";
import { UnsentReplyError } from "./replies/replies.ts";

/** Of the longest header there is; each format uses its beginning. */
const headers = new Uint8Array(STRUCTURED_REPLIES.headerBytes);

/** A buffer for the next large reply: fresh memory costs three times as much. */
let spare: Uint8Array = new Uint8Array(0);
const MAX_SPARE_BYTES = 2 * 1024 * 1024;

/** Not zeroed: it is filled completely or not sent. Belongs to the caller, who may give it to `keepSpare`. */
function takeSpare(lengthBytes: number): Uint8Array {
  const buffer = spare.length >= lengthBytes ? spare : Buffer.allocUnsafeSlow(lengthBytes);
  spare = new Uint8Array(0);
  return buffer;
}

/** Keeps a buffer that nothing refers to any more. */
function keepSpare(buffer: Uint8Array): void {
  if (buffer.length <= MAX_SPARE_BYTES) spare = buffer;
}

export class LargeReplies {
  readonly #link: LinkContext;
  readonly #outbox: Outbox;
  readonly #format: ReplyFormat;
  readonly #header: Uint8Array;

  constructor(link: LinkContext, outbox: Outbox) {
    this.#link = link;
    this.#outbox = outbox;
    this.#format = link.format;
    this.#header = headers.subarray(0, link.format.headerBytes);
  }

  /** Answers from the page cache, without a copy. False where the range may not be sent like that. */
  sendFromFile(request: Readonly<NbdRequest>): boolean {
    const link = this.#link;
    const { lengthBytes } = request;
    if (link.copyOnly) return false;
    const extent = link.source.extent(request.offsetBytes, lengthBytes);
    if (extent === undefined) return false;
    this.#format.encodeHeaderInto(this.#header, 0, request);
    link.counters.readBytes += lengthBytes;
    try {
      const result = link.replies.sendFile(this.#header, extent, lengthBytes, link.entry);
      if (result === undefined) {
        link.counters.readBytes -= lengthBytes;
        return false;
      }
      link.sent(result);
    } catch (error) {
      if (error instanceof UnsentReplyError) {
        link.counters.readBytes -= lengthBytes;
        link.failRead(request, error);
      } else link.endInsideReply(error);
    }
    return true;
  }

  /** Answers from a buffer of its own, after everything in the outbox: that is verified by a look before this read. */
  readAlone(request: Readonly<NbdRequest>): void {
    const link = this.#link;
    this.#outbox.flush();
    if (!link.isOpen) return;
    const { offsetBytes, lengthBytes } = request;
    const { headerBytes } = this.#format;
    const buffer = takeSpare(headerBytes + lengthBytes);
    const reply = buffer.subarray(0, headerBytes + lengthBytes);
    try {
      readSteadily(() => {
        void link.source.read(reply.subarray(headerBytes), offsetBytes);
        link.source.verify();
      });
    } catch (error) {
      keepSpare(buffer);
      return link.failRead(request, error);
    }
    this.#format.encodeHeaderInto(reply, 0, request);
    link.counters.readBytes += lengthBytes;
    link.sent(link.replies.sendOwned(reply, link.entry));
    // The whole reply has left: nothing refers to the buffer.
    if (link.replies.isEmpty) keepSpare(buffer);
  }
}
