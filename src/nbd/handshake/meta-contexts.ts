/**
 * The metadata contexts of an export, as LIST_META_CONTEXT and SET_META_CONTEXT ask for them: there is one,
 * `base:allocation`, which says where the export has holes.
 *
 * Used by the server's handshake. Without I/O; takes the option's data as the client has sent it.
 *
 * Source: the protocol's doc/proto.md, "Metadata querying" and "Option types".
 */
import { concatBytes } from "../byte-queue.ts";
import { BASE_ALLOCATION, BASE_ALLOCATION_ID } from "../structured.ts";
import { decodeText, encodeText, MAX_STRING_BYTES, u32Bytes } from "./wire.ts";

/** What a client asks for: an export's name, and contexts or beginnings of their names. */
export interface MetaContextQuery {
  readonly exportName: string;
  readonly queries: readonly string[];
}

/**
 * Name length (4), name, number of queries (4), each with its length (4). Undefined when the lengths do not fit the
 * data, or exceed what the protocol allows.
 */
export function decodeMetaContextQuery(data: Uint8Array): MetaContextQuery | undefined {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  let at = 0;
  const number = (): number | undefined => {
    if (data.length - at < 4) return undefined;
    at += 4;
    return view.getUint32(at - 4);
  };
  const text = (): string | undefined => {
    const length = number();
    if (length === undefined || length > MAX_STRING_BYTES || length > data.length - at) return undefined;
    at += length;
    return decodeText(data.subarray(at - length, at));
  };
  const exportName = text();
  const count = number();
  if (exportName === undefined || count === undefined) return undefined;
  const queries: string[] = [];
  for (let left = count; left > 0; left -= 1) {
    const query = text();
    // Ends at the first one that is missing, no matter how many were announced.
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return at === data.length ? { exportName, queries } : undefined;
}

/** Whether LIST shows base:allocation: to no query, to its namespace, and to its name. */
export function isListed(queries: readonly string[]): boolean {
  return queries.length === 0 || queries.some((query) => query === "base:" || query === BASE_ALLOCATION);
}

/** Whether SET chooses base:allocation: only by its full name. */
export function isChosen(queries: readonly string[]): boolean {
  return queries.includes(BASE_ALLOCATION);
}

/** The data of the META_CONTEXT reply about base:allocation; LIST gives no context a number. */
export function encodeMetaContext(isSet: boolean): Uint8Array {
  return concatBytes([u32Bytes(isSet ? BASE_ALLOCATION_ID : 0), encodeText(BASE_ALLOCATION)]);
}
