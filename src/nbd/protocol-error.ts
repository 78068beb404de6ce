/**
 * The error that src/nbd throws at bytes from a peer that does not speak NBD: its stream is lost.
 *
 * Thrown by the request framer; the handshakes report the same condition as a result. It has the shape of all errors of
 * this project (`code`, `message`, `hint`) without an import, because this folder imports nothing.
 */

/** The stream cannot be resynchronised: the link must be cut. */
export class NbdProtocolError extends Error {
  override readonly name = "NbdProtocolError";
  readonly code = "ERR_PROTOCOL";
  readonly hint: string | undefined;
  /** Where the offending message starts, in bytes since the beginning of the stream. */
  readonly streamOffsetBytes: number;

  constructor(message: string, streamOffsetBytes: number, hint?: string) {
    super(message);
    this.streamOffsetBytes = streamOffsetBytes;
    this.hint = hint;
  }
}
