/**
 * INFO and GO: which export a client asks about, what it wants to know, and the answers.
 *
 * Used by the server's handshake. Without I/O.
 *
 * Source: the protocol's doc/proto.md, "Option types" and "NBD_INFO_…".
 */
import type { NbdExport } from "./export.ts";
import {
  decodeText,
  encodeText,
  MAX_STRING_BYTES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_INFO_NAME,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_TOO_BIG,
  u16Bytes,
  u32Bytes,
  u64Bytes,
} from "./wire.ts";

export interface InformationRequest {
  readonly exportName: string;
  /** `NBD_INFO_…` numbers, known or not. */
  readonly wanted: ReadonlySet<number>;
}

/** Name length (4), name, number of requests (2), requests (2 each); else the error reply's type and text. */
export function decodeInformationRequest(
  data: Uint8Array,
): InformationRequest | { readonly error: number; readonly text: string } {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const nameLength = data.length < 6 ? Number.POSITIVE_INFINITY : view.getUint32(0);
  if (nameLength > data.length - 6)
    return { error: NBD_REP_ERR_INVALID, text: "the name is longer than the option" };
  if (nameLength > MAX_STRING_BYTES)
    return { error: NBD_REP_ERR_TOO_BIG, text: `the name is longer than ${MAX_STRING_BYTES} bytes` };
  const count = view.getUint16(4 + nameLength);
  if (data.length !== 6 + nameLength + 2 * count)
    return { error: NBD_REP_ERR_INVALID, text: "the number of information requests is wrong" };
  const numbers = Array.from({ length: count }, (_, index) => view.getUint16(6 + nameLength + 2 * index));
  return { exportName: decodeText(data.subarray(4, 4 + nameLength)), wanted: new Set(numbers) };
}

/** The payloads of the NBD_REP_INFO replies for an export: the mandatory one, and those that were asked for. */
export function infosOf(one: NbdExport, flags: number, wanted: ReadonlySet<number>): Uint8Array[][] {
  const infos = [[u16Bytes(NBD_INFO_EXPORT), u64Bytes(BigInt(one.sizeBytes)), u16Bytes(flags)]];
  if (wanted.has(NBD_INFO_NAME)) infos.push([u16Bytes(NBD_INFO_NAME), encodeText(one.name)]);
  if (wanted.has(NBD_INFO_DESCRIPTION) && one.description !== undefined) {
    infos.push([u16Bytes(NBD_INFO_DESCRIPTION), encodeText(one.description)]);
  }
  if (wanted.has(NBD_INFO_BLOCK_SIZE)) {
    infos.push([
      u16Bytes(NBD_INFO_BLOCK_SIZE),
      u32Bytes(one.minimumBlockBytes),
      u32Bytes(one.preferredBlockBytes),
      u32Bytes(one.maximumBlockBytes),
    ]);
  }
  return infos;
}
