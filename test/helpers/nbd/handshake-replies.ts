/**
 * Reads what a foreign NBD server answers during the handshake: headers, list entries, information about an export.
 *
 * Called by handshake-client.ts alone. Every function returns a sentence instead of a value when the server's bytes
 * break the protocol; none throws, and none allocates by a length it has not compared with the bytes in hand.
 */

import type { ByteQueue } from "../../../src/nbd/byte-queue.ts";
import { brokenBlockSize } from "../../../src/nbd/handshake/export.ts";
import {
  decodeText,
  MAX_STRING_BYTES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_INFO_NAME,
  NBD_REP_MAGIC,
  OPTION_REPLY_HEADER_BYTES,
  optionName,
} from "../../../src/nbd/handshake/wire.ts";

/** Block sizes a server asks its clients to respect. */
export interface ServerBlockSizes {
  readonly minimumBytes: number;
  readonly preferredBytes: number;
  /** 0xffffffff: no limit but the export's size. */
  readonly maximumBytes: number;
}

/** What a server reported about an export. */
export interface ServerExportFacts {
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  /** The server's own name for the export, if it gave one. */
  readonly canonicalName: string | undefined;
  readonly description: string | undefined;
  readonly blockSizes: ServerBlockSizes | undefined;
}

/** Nothing is known yet: a size below 0 means that the mandatory information is missing. */
export const NO_FACTS: ServerExportFacts = {
  sizeBytes: -1,
  transmissionFlags: 0,
  canonicalName: undefined,
  description: undefined,
  blockSizes: undefined,
};

/** What is wrong with the option reply header at the queue's front, or undefined. */
export function replyFault(queue: ByteQueue, option: number, budgetBytes: number): string | undefined {
  if (queue.u64(0) !== NBD_REP_MAGIC) return "the server's option reply has a wrong magic";
  if (queue.u32(8) !== option) {
    return `the server answered ${optionName(queue.u32(8))} while it was asked ${optionName(option)}`;
  }
  const length = queue.u32(16);
  if (OPTION_REPLY_HEADER_BYTES + length > budgetBytes) {
    return `the server's reply to ${optionName(option)} is too long (${length} more bytes)`;
  }
  return undefined;
}

/** One NBD_REP_SERVER: name length (4), name, description. */
export function readListEntry(data: Uint8Array): { name: string; description: string } | string {
  const nameLength = data.length < 4 ? Number.POSITIVE_INFINITY : viewOf(data).getUint32(0);
  if (nameLength > data.length - 4) return "the server's list entry is shorter than the name in it";
  if (nameLength > MAX_STRING_BYTES || data.length - 4 - nameLength > MAX_STRING_BYTES) {
    return `the server's list entry has a text longer than ${MAX_STRING_BYTES} bytes`;
  }
  return {
    name: decodeText(data.subarray(4, 4 + nameLength)),
    description: decodeText(data.subarray(4 + nameLength)),
  };
}

/** One NBD_REP_INFO: type (2), payload by type; returns `known` with what it adds. Unknown types add nothing. */
export function readInfo(known: ServerExportFacts, data: Uint8Array): ServerExportFacts | string {
  if (data.length < 2) return "the server's information reply is empty";
  const view = viewOf(data);
  switch (view.getUint16(0)) {
    case NBD_INFO_EXPORT:
      return readExportInfo(known, view);
    case NBD_INFO_NAME:
      return { ...known, canonicalName: decodeText(data.subarray(2)) };
    case NBD_INFO_DESCRIPTION:
      return { ...known, description: decodeText(data.subarray(2)) };
    case NBD_INFO_BLOCK_SIZE:
      return readBlockSizes(known, view);
    default:
      return known;
  }
}

function readExportInfo(known: ServerExportFacts, view: DataView): ServerExportFacts | string {
  if (view.byteLength !== 12) return `the server's export information has ${view.byteLength} bytes, not 12`;
  const size = view.getBigUint64(2);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) return `the export is too large (${size} bytes)`;
  return { ...known, sizeBytes: Number(size), transmissionFlags: view.getUint16(10) };
}

function readBlockSizes(known: ServerExportFacts, view: DataView): ServerExportFacts | string {
  if (view.byteLength !== 14) return `the server's block sizes have ${view.byteLength} bytes, not 14`;
  const blockSizes = {
    minimumBytes: view.getUint32(2),
    preferredBytes: view.getUint32(6),
    maximumBytes: view.getUint32(10),
  };
  // The size may come later, so the rule that involves it is checked as for an empty export.
  const broken = brokenBlockSize(
    blockSizes.minimumBytes,
    blockSizes.preferredBytes,
    blockSizes.maximumBytes,
    0,
  );
  return broken === undefined
    ? { ...known, blockSizes }
    : `the server's block sizes make no sense: ${broken}`;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
