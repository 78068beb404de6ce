/**
 * An export: what an NBD server offers under a name, and the protocol's rules for its numbers.
 *
 * Used by the server's handshake, which refuses an export that breaks the rules when it is constructed, and by the NBD
 * server. Plain data: nothing is opened or read.
 *
 * Source: the protocol's doc/proto.md, "Block size constraints" and "Transmission flags".
 */

import { MAX_REQUEST_BYTES } from "../request-check.ts";
import { NBD_FLAG_HAS_FLAGS, READ_ONLY_EXPORT_FLAGS } from "../wire.ts";
import {
  encodeText,
  isPowerOfTwo,
  MAX_MINIMUM_BLOCK_BYTES,
  MAX_STRING_BYTES,
  UNLIMITED_BLOCK_BYTES,
} from "./wire.ts";

/** One export of a server. */
export interface NbdExport {
  /** At most 4096 bytes of UTF-8 without NUL; "" names the default export. */
  readonly name: string;
  /** Shown to users: at most 4096 bytes of UTF-8 without NUL. */
  readonly description?: string | undefined;
  readonly sizeBytes: number;
  /** `NBD_FLAG_…` bits, HAS_FLAGS among them. */
  readonly transmissionFlags: number;
  /** Smallest length and alignment of a request: a power of two, 1 to 65536. */
  readonly minimumBlockBytes: number;
  /** The fastest size: a power of two, at least 512 and the minimum. */
  readonly preferredBlockBytes: number;
  /** Longest request: a multiple of the minimum, at least the smaller of preferred and size. */
  readonly maximumBlockBytes: number;
}

/** The export of a read-only image: any alignment, 4 KiB preferred, requests up to {@link MAX_REQUEST_BYTES}. */
export function readOnlyExport(name: string, sizeBytes: number, description?: string): NbdExport {
  return {
    name,
    description,
    sizeBytes,
    transmissionFlags: READ_ONLY_EXPORT_FLAGS,
    minimumBlockBytes: 1,
    preferredBlockBytes: 4096,
    maximumBlockBytes: MAX_REQUEST_BYTES,
  };
}

/** @throws RangeError that names the first rule an export breaks */
export function checkExport(one: NbdExport): void {
  const broken = brokenRule(one);
  if (broken !== undefined)
    throw new RangeError(`cannot offer the NBD export ${JSON.stringify(one.name)}: ${broken}`);
}

function brokenRule(one: NbdExport): string | undefined {
  for (const text of [one.name, one.description ?? ""]) {
    if (encodeText(text).length > MAX_STRING_BYTES) return `a text is longer than ${MAX_STRING_BYTES} bytes`;
    if (text.includes("\0")) return "a text contains NUL";
  }
  if (!Number.isSafeInteger(one.sizeBytes) || one.sizeBytes < 0) return `its size is ${one.sizeBytes}`;
  if ((one.transmissionFlags & NBD_FLAG_HAS_FLAGS) === 0 || one.transmissionFlags > 0xffff) {
    return `its flags are 0x${one.transmissionFlags.toString(16)}`;
  }
  return brokenBlockSize(
    one.minimumBlockBytes,
    one.preferredBlockBytes,
    one.maximumBlockBytes,
    one.sizeBytes,
  );
}

/** The first rule that three block sizes break, or undefined. Also used on sizes from a foreign server. */
export function brokenBlockSize(
  minimumBytes: number,
  preferredBytes: number,
  maximumBytes: number,
  sizeBytes: number,
): string | undefined {
  if (!isPowerOfTwo(minimumBytes) || minimumBytes > MAX_MINIMUM_BLOCK_BYTES) {
    return `its minimum block size ${minimumBytes} is no power of two up to ${MAX_MINIMUM_BLOCK_BYTES}`;
  }
  if (!isPowerOfTwo(preferredBytes) || preferredBytes < Math.max(512, minimumBytes)) {
    return `its preferred block size ${preferredBytes} is no power of two from ${Math.max(512, minimumBytes)} on`;
  }
  if (maximumBytes === UNLIMITED_BLOCK_BYTES) return undefined;
  if (
    maximumBytes % minimumBytes !== 0 ||
    maximumBytes < Math.min(preferredBytes, sizeBytes) ||
    maximumBytes === 0
  ) {
    return `its maximum block size ${maximumBytes} does not fit the others`;
  }
  return maximumBytes > UNLIMITED_BLOCK_BYTES
    ? `its maximum block size ${maximumBytes} exceeds 32 bits`
    : undefined;
}
