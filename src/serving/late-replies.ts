/**
 * Replies of an asynchronous source: each leaves when its data has come, in any order.
 *
 * Used by the read-serving loop, which reads no further requests while `bytes` has reached MAX_ASYNC_BYTES.
 */
import { MAX_REQUEST_BYTES } from "../nbd/request-check.ts";
import { NBD_EIO, type NbdRequest } from "../nbd/wire.ts";
import type { LinkContext } from "./link-context.ts";

/** Memory that the unfinished asynchronous reads of one link may hold. The read that reaches it is still begun. */
export const MAX_ASYNC_BYTES: number = 2 * MAX_REQUEST_BYTES;

export class LateReplies {
  readonly #link: LinkContext;
  readonly #goOn: () => void;
  /** Memory that unfinished reads hold. */
  bytes = 0;

  /** `goOn` is called after each reply: requests may wait in the inbox for memory that has become free. */
  constructor(link: LinkContext, goOn: () => void) {
    this.#link = link;
    this.#goOn = goOn;
  }

  /** Begins a read, and answers the request when it has ended. */
  read(request: Readonly<NbdRequest>): void {
    const link = this.#link;
    const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
    const { entry, format } = link;
    const reply = new Uint8Array(format.headerBytes + lengthBytes);
    format.encodeHeaderInto(reply, 0, request);
    this.bytes += reply.length;
    link.pump.asynchronousStarted();
    const finish = (errno: number): void => {
      link.pump.asynchronousEnded();
      this.bytes -= reply.length;
      if (!link.isOpen) return;
      if (errno !== 0) format.encodeErrorInto(reply, 0, errno, cookieHigh, cookieLow);
      link.sent(link.replies.sendOwned(errno === 0 ? reply : reply.subarray(0, format.errorBytes), entry));
      this.#goOn();
    };
    const readAndVerify = async (): Promise<void> => {
      await link.source.read(reply.subarray(format.headerBytes), offsetBytes);
      link.source.verify();
    };
    readAndVerify().then(
      () => {
        if (link.isOpen) link.counters.readBytes += lengthBytes;
        finish(0);
      },
      (error: unknown) => {
        if (link.isOpen) link.countErrors(error, 1);
        finish(NBD_EIO);
      },
    );
  }
}
