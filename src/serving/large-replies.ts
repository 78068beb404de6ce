/**
 * Replies that do not go through the outbox: large ones straight from the page cache, and those that need a buffer of
 * their own because they are too large, have to wait, or must be read again.
 *
 * Used by the read-serving loop.
 */
import { encodeReplyInto, type NbdRequest, SIMPLE_REPLY_BYTES } from "../nbd/wire.ts";
import { readSteadily } from "../source/source.ts";
import type { LinkContext } from "./link-context.ts";
import type { Outbox } from "./outbox.ts";
import { UnsentReplyError } from "./replies/replies.ts";

const header = new Uint8Array(SIMPLE_REPLY_BYTES);

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

  constructor(link: LinkContext, outbox: Outbox) {
    this.#link = link;
    this.#outbox = outbox;
  }

  /** Answers from the page cache, without a copy. False where the range may not be sent like that. */
  sendFromFile(request: Readonly<NbdRequest>): boolean {
    const link = this.#link;
    const { lengthBytes, cookieHigh, cookieLow } = request;
    if (link.copyOnly) return false;
    const extent = link.source.extent(request.offsetBytes, lengthBytes);
    if (extent === undefined) return false;
    encodeReplyInto(header, 0, 0, cookieHigh, cookieLow);
    link.counters.readBytes += lengthBytes;
    try {
      link.sent(link.replies.sendFile(header, extent, lengthBytes, link.entry));
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
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    const buffer = takeSpare(SIMPLE_REPLY_BYTES + lengthBytes);
    const reply = buffer.subarray(0, SIMPLE_REPLY_BYTES + lengthBytes);
    try {
      readSteadily(() => {
        void link.source.read(reply.subarray(SIMPLE_REPLY_BYTES), offsetBytes);
        link.source.verify();
      });
    } catch (error) {
      keepSpare(buffer);
      return link.failRead(request, error);
    }
    encodeReplyInto(reply, 0, 0, cookieHigh, cookieLow);
    link.counters.readBytes += lengthBytes;
    link.sent(link.replies.sendOwned(reply, link.entry));
    // The whole reply has left: nothing refers to the buffer.
    if (link.replies.isEmpty) keepSpare(buffer);
  }
}
