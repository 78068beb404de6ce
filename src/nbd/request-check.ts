/**
 * Checks a decoded request before any memory is sized by it: the error it gets, and how much payload follows it.
 *
 * Called by the read-serving loop for every request. It reads no data and cuts no link: `payloadBytes` says when that
 * must happen.
 *
 * Source: the protocol's doc/proto.md, "Request types", "Error values" and "Block size constraints".
 */

import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_EPERM,
  type NbdRequest,
} from "./wire.ts";

/**
 * The longest range of a request, 32 MiB: up to this length the protocol asks both sides not to treat a payload as an
 * attack. Exports advertise it as their maximum block size.
 */
export const MAX_REQUEST_BYTES = 0x200_0000;

/** What {@link payloadBytes} returns when the payload is too long to be skipped: cut the link. */
export const PAYLOAD_TOO_LONG = -1;

/** What a client has agreed on with the server, in the handshake; undefined for simple replies. */
export interface StructuredReplies {
  /** Whether it may ask for block status, in the context `base:allocation`. */
  readonly allocation: boolean;
}

/**
 * The NBD error number of a request, or 0.
 *
 * On a read-only export 0 means READ with a range inside the export, 1 to {@link MAX_REQUEST_BYTES} long, or DISC,
 * which has no reply; with `structured` replies also BLOCK_STATUS, if that was agreed on. Commands that write get
 * EPERM. Unknown commands, unknown flags, empty or overlong reads and reads past the end get EINVAL (EOVERFLOW is
 * reserved for unfragmented structured replies). On a writable export, writes past the end get ENOSPC.
 */
export function checkRequest(
  request: Readonly<NbdRequest>,
  exportSizeBytes: number,
  readOnly: boolean,
  structured?: StructuredReplies,
): number {
  switch (request.type) {
    case NBD_CMD_READ:
      if (request.flags !== 0 && (request.flags !== NBD_CMD_FLAG_DF || structured === undefined)) {
        return NBD_EINVAL;
      }
      if (request.lengthBytes === 0 || request.lengthBytes > MAX_REQUEST_BYTES) return NBD_EINVAL;
      return isInside(request, exportSizeBytes) ? 0 : NBD_EINVAL;
    case NBD_CMD_BLOCK_STATUS:
      if (structured?.allocation !== true) return NBD_EINVAL;
      return checkRange(request, exportSizeBytes, NBD_CMD_FLAG_REQ_ONE, NBD_EINVAL);
    case NBD_CMD_DISC:
      return 0;
    case NBD_CMD_WRITE:
      if (readOnly) return NBD_EPERM;
      return checkRange(request, exportSizeBytes, NBD_CMD_FLAG_FUA, NBD_ENOSPC);
    case NBD_CMD_WRITE_ZEROES:
      if (readOnly) return NBD_EPERM;
      return checkRange(request, exportSizeBytes, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE, NBD_ENOSPC);
    case NBD_CMD_TRIM:
      if (readOnly) return NBD_EPERM;
      return checkRange(request, exportSizeBytes, NBD_CMD_FLAG_FUA, NBD_EINVAL);
    case NBD_CMD_FLUSH:
      // Not offered on a read-only export, which has nothing to flush.
      if (readOnly || request.flags !== 0 || request.lengthBytes !== 0 || request.offsetBytes !== 0) {
        return NBD_EINVAL;
      }
      return 0;
    default:
      return NBD_EINVAL;
  }
}

/**
 * How many payload bytes follow the request in the stream. Exactly these must be consumed before the next request.
 *
 * @returns 0 for all but WRITE; {@link PAYLOAD_TOO_LONG} above {@link MAX_REQUEST_BYTES}: cut the link instead of
 * skipping gigabytes (the protocol allows that from 32 MiB on).
 */
export function payloadBytes(request: Readonly<NbdRequest>): number {
  if (request.type !== NBD_CMD_WRITE) return 0;
  return request.lengthBytes > MAX_REQUEST_BYTES ? PAYLOAD_TOO_LONG : request.lengthBytes;
}

function isInside(request: Readonly<NbdRequest>, exportSizeBytes: number): boolean {
  // A subtraction cannot exceed 2^53, which a sum could; OFFSET_TOO_LARGE is negative.
  return request.offsetBytes >= 0 && request.offsetBytes <= exportSizeBytes - request.lengthBytes;
}

function checkRange(
  request: Readonly<NbdRequest>,
  exportSizeBytes: number,
  allowedFlags: number,
  errnoPastEnd: number,
): number {
  if ((request.flags & ~allowedFlags) !== 0 || request.lengthBytes === 0) return NBD_EINVAL;
  return isInside(request, exportSizeBytes) ? 0 : errnoPastEnd;
}
