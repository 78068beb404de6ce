/**
 * The one error src/nbd throws at bytes from outside: the other side does not speak NBD, so its stream is lost.
 *
 * Thrown by the request framer; the handshakes report the same condition as a result instead. It has the shape all
 * errors of this project share (`code`, `message`, `hint`) without importing any, because this folder imports nothing.
 */

/** The stream cannot be trusted again: the link must be cut, never resynchronised. */
export class NbdProtocolError extends Error {
  override readonly name = "NbdProtocolError";
  readonly code = "ERR_PROTOCOL";
  readonly hint: string | undefined;
  /** Where in the stream the offending message starts, in bytes since its beginning. */
  readonly streamOffsetBytes: number;

  constructor(message: string, streamOffsetBytes: number, hint?: string) {
    super(message);
    this.streamOffsetBytes = streamOffsetBytes;
    this.hint = hint;
  }
}
