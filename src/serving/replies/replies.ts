/**
 * The contract of a link's replies: how the read-serving loop hands them over, and what it may ask about them.
 *
 * JournaledReplies serves links that another worker can take over, ReplyQueue all others. Neither blocks: what the
 * socket does not take waits until `flush`.
 */
import { type FileExtent, SourceError } from "../../source/source.ts";

/** The numbers called `entry` name the journal entries of the requests that are answered; unused without a journal. */
export interface Replies {
  /** Whether nothing waits for room in the socket. */
  readonly isEmpty: boolean;
  /** Whether the peer has yet to read pages of a file that were sent by reference. Asks the kernel if some were. */
  readonly sharesPages: boolean;
  /** Whether data of a file is among the replies that wait. */
  readonly needsFile: boolean;
  /** Most bytes that the loop may gather for one `sendBatch`. */
  readonly batchBytes: number;
  /** From this size on data is better sent with `sendFile`. */
  readonly fileMinBytes: number;
  /** Sends from a buffer that the caller uses again. Returns 0 or -errno (the peer is gone). */
  sendBatch(bytes: Uint8Array, lengthBytes: number, entries: readonly number[]): number;
  /** Sends one reply in a buffer that is given away with the call. Returns 0 or -errno. */
  sendOwned(reply: Uint8Array, entry: number): number;
  /**
   * Sends a header and a range of a file from the page cache. Returns 0 or -errno; undefined if nothing has left and
   * the range has to be read instead.
   * @throws UnsentReplyError when the file fails and nothing has left; SourceError when the link has to be cut
   */
  sendFile(header: Uint8Array, extent: FileExtent, lengthBytes: number, entry: number): number | undefined;
  /**
   * Verifies files whose data has waited, then sends for as long as the socket takes bytes. Returns 0 or -errno.
   * @throws SourceError when the link has to be cut
   */
  flush(): number;
  /** Closes what the replies hold, except for the socket. */
  close(): void;
}

/** A file failed before any part of the reply had left: an error can still be the answer. */
export class UnsentReplyError extends SourceError {}

/** Bytes that are read at once from a file whose pages may not leave by reference any more. */
export const COPY_BYTES: number = 256 * 1024;
