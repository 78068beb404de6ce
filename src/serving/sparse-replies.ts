/**
 * Replies that say where a source has holes: reads that touch some, and block status. Only for clients of `serve` that
 * have asked for structured replies.
 *
 * Used by the read-serving loop. A read without a hole in it is left to the loop.
 */
import {
  BASE_ALLOCATION_ID,
  DATA_CHUNK_HEADER_BYTES,
  encodeBlockStatus,
  encodeDataChunkInto,
  encodeHoleChunkInto,
  HOLE_CHUNK_BYTES,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
  type StatusExtent,
} from "../nbd/structured.ts";
import { NBD_CMD_FLAG_DF, NBD_CMD_FLAG_REQ_ONE, type NbdRequest } from "../nbd/wire.ts";
import type { AllocatedExtent } from "../source/allocation-map.ts";
import { readSteadily } from "../source/source.ts";
import type { LinkContext } from "./link-context.ts";
import type { Outbox } from "./outbox.ts";

/** The rest of a read that has more parts is answered with its bytes: chunks cost the client more than zeros. */
const MAX_CHUNKS = 16;
/** Extents in one block status; the client asks for the rest. */
const MAX_STATUS_EXTENTS = 512;

export class SparseReplies {
  readonly #link: LinkContext;
  readonly #outbox: Outbox;

  constructor(link: LinkContext, outbox: Outbox) {
    this.#link = link;
    this.#outbox = outbox;
  }

  /** Answers a read of a range with holes; false if it has none, or may not be answered in parts. */
  read(request: Readonly<NbdRequest>): boolean {
    const { offsetBytes, lengthBytes, flags } = request;
    const { allocation } = this.#link.source;
    if (allocation === undefined) return false;
    const first = allocation.at(offsetBytes);
    if (!first.isHole && first.endBytes >= offsetBytes + lengthBytes) return false;
    if ((flags & NBD_CMD_FLAG_DF) !== 0) return false;
    this.#outbox.flush();
    if (this.#link.isOpen) this.#answer(request);
    return true;
  }

  /** Answers a request for block status, whose range lies inside the source. */
  status(request: Readonly<NbdRequest>): void {
    const link = this.#link;
    this.#outbox.flush();
    if (!link.isOpen) return;
    let extents: StatusExtent[] = [];
    try {
      readSteadily(() => {
        extents = this.#statusOf(request);
        link.source.verify();
      });
    } catch (error) {
      return link.failRead(request, error);
    }
    link.sent(link.replies.sendOwned(encodeBlockStatus(request, BASE_ALLOCATION_ID, extents), link.entry));
  }

  #answer(request: Readonly<NbdRequest>): void {
    const link = this.#link;
    let reply: Uint8Array = new Uint8Array(0);
    try {
      readSteadily(() => {
        reply = this.#compose(request);
        link.source.verify();
      });
    } catch (error) {
      return link.failRead(request, error);
    }
    link.counters.readBytes += request.lengthBytes;
    link.sent(link.replies.sendOwned(reply, link.entry));
  }

  /** The reply to a read: a chunk for each part of it. @throws SourceError */
  #compose(request: Readonly<NbdRequest>): Uint8Array {
    const endBytes = request.offsetBytes + request.lengthBytes;
    const parts = this.#partsOf(request.offsetBytes, endBytes, MAX_CHUNKS);
    const last = parts.at(-1) as AllocatedExtent;
    if (last.endBytes < endBytes) parts[parts.length - 1] = { ...last, endBytes, isHole: false };
    const sizes = parts.map((part) =>
      part.isHole ? HOLE_CHUNK_BYTES : DATA_CHUNK_HEADER_BYTES + part.endBytes - part.startBytes,
    );
    // Not zeroed: it is filled completely or not sent.
    const reply = Buffer.allocUnsafeSlow(sizes.reduce((sum, size) => sum + size, 0));
    let at = 0;
    parts.forEach(({ startBytes, endBytes: end, isHole }, index) => {
      const encode = isHole ? encodeHoleChunkInto : encodeDataChunkInto;
      encode(reply, at, request, startBytes, end - startBytes, index === parts.length - 1);
      const next = at + (sizes[index] as number);
      if (!isHole)
        void this.#link.source.read(reply.subarray(at + DATA_CHUNK_HEADER_BYTES, next), startBytes);
      at = next;
    });
    return reply;
  }

  /** The range as data and holes, from its beginning on: not more than so many parts. */
  #partsOf(startBytes: number, endBytes: number, max: number): AllocatedExtent[] {
    const parts: AllocatedExtent[] = [];
    const { allocation } = this.#link.source;
    for (let at = startBytes; at < endBytes && parts.length < max; ) {
      const extent = allocation?.at(at);
      const end = Math.min(extent?.endBytes ?? endBytes, endBytes);
      parts.push({ startBytes: at, endBytes: end, isHole: extent?.isHole ?? false });
      at = end;
    }
    return parts;
  }

  #statusOf({ offsetBytes, lengthBytes, flags }: Readonly<NbdRequest>): StatusExtent[] {
    const max = (flags & NBD_CMD_FLAG_REQ_ONE) === 0 ? MAX_STATUS_EXTENTS : 1;
    return this.#partsOf(offsetBytes, offsetBytes + lengthBytes, max).map((part) => ({
      lengthBytes: part.endBytes - part.startBytes,
      flags: part.isHole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0,
    }));
  }
}
