/**
 * The layout of a link's journal, and the argument why a kill at any instant leaves no doubt.
 *
 * A journal is a small file that worker and manager map: a head of 64 bytes, ENTRIES entries of one request each, and
 * latency buckets. Requests are received straight into an entry, and the first word of an entry is its state. These
 * words tell a successor exactly what is left to do; recovery.ts reads them. By state:
 *
 *   first word of an entry   meaning                             set by, and the instant between
 *   0                        free: never used, or answered       `answered`, after the reply has left
 *   the request's magic      received, not answered              recv(2) itself: counted or not, it is here
 *   SENDING                  its reply may or may not have left  `sending`, before the reply can leave
 *
 *   batch                    where the replies of all SENDING entries are
 *   IDLE                     in one send(2): before, inside or after it. It is made only where a unix stream takes all
 *                            or nothing (journaled-replies.ts); the kernel's count of reads in flight tells which
 *                            (account.ts).
 *   FILLING, n committed     on their way into the link's pipe: nothing of that has left; the pipe's contents are void
 *   FILLED, n committed      in the pipe or gone: everything has left but what the pipe still holds
 *
 * Order of stores, each of one word: SENDING for every entry of the batch, then FILLING, then (the pipe is written)
 * FILLED, then (the pipe is emptied into the socket) 0 for every entry, then IDLE. Between the zeros and IDLE, FILLED
 * with an empty pipe means done. Between the first SENDING and FILLING nothing has left, and IDLE with an unsent
 * send(2) means the same. A reply larger than the pipe goes through FILLING and FILLED several times: the bytes
 * committed before stand, because those of a file never change. A reply of which nothing has left may go back from
 * FILLED to FILLING with nothing committed; the pipe is emptied after that store.
 *
 * Counters, the time of the last receive and latencies (latency.ts) decide nothing, so their order does not matter: a
 * kill between two of them loses a count.
 */
import { NBD_REQUEST_MAGIC, REQUEST_BYTES } from "../nbd/wire.ts";
import { LATENCY_WORDS } from "./latency.ts";

/** More than a kernel has on one socket: 128 per queue; about 220 were seen after another link had died. */
export const ENTRIES = 512;
export const ENTRIES_AT = 64;
export const LATENCIES_AT: number = ENTRIES_AT + ENTRIES * REQUEST_BYTES;
/**
 * Bytes of a journal. Latencies use the rest of its last page: a journal made by a former version ends before them, but
 * its last page is mapped as a whole.
 */
export const JOURNAL_BYTES: number = LATENCIES_AT + LATENCY_WORDS * 8;

/** `JNL1` in memory order. A file of zeros is initialised, one of another layout is refused. */
export const LAYOUT = 0x314c4e4a;

/** Words of the head. */
export const LAYOUT_WORD = 0;
export const BATCH_WORD = 1;
export const BATCH_BYTES_WORD = 2;
export const BUSY_WORD = 3;
/** The offer that was made and not taken; 0 if there is none. See offer.ts. */
export const OFFER_WORD = 4;
/**
 * Halves of the word behind it, in pages of 4 KiB. What the worker's large replies need of the link's pipe; the manager
 * takes it and leaves 0.
 */
export const PIPE_WISH_HALF = 10;
/** The pipe's capacity since the manager has last changed it; 0: it has not. */
export const PIPE_PAGES_HALF = 11;

/** Doubles of the head, exact to 2^53, and one store each. */
export const ANSWERED = 3;
export const READ_BYTES = 4;
export const READ_ERRORS = 5;
/** When something was received last, by the loop's clock. */
export const RECEIVED_AT = 6;
/** When the lease was last seen held under which pages are sent by reference; 0: only copies are sent. */
export const LEASE_SEEN_AT = 7;

export const ENTRY_WORDS: number = REQUEST_BYTES / 4;
export const FIRST_ENTRY_WORD: number = ENTRIES_AT / 4;
/** The first word of a request's cookie. */
export const COOKIE_WORD = 2;

/**
 * Capacity of a link's pipe that workers rely on: replies of several requests must fit, because they cannot be
 * continued when only a part of them was in the pipe. 500 links stay below the default limit of a user
 * (pipe-user-pages-soft, pipe(7)).
 */
export const BASE_PIPE_BYTES: number = 128 * 1024;
/** Most that a pipe grows to: the largest read of a device with usual settings. */
export const MAX_PIPE_BYTES: number = 4 * 1024 * 1024;

/** States: the first word of an entry. */
export const FREE = 0;
/** A request's magic, big-endian on the wire, as this machine's memory shows it. */
export const RECEIVED: number = new Int32Array(bigEndian(NBD_REQUEST_MAGIC).buffer)[0] as number;
export const SENDING = 0x5e4d1b67;

/** State of the batch in which no reply is in the pipe. */
export const IDLE = -1;

/** How many whole requests so many unread bytes of a link are. */
export const wholeRequests = (bytes: number): number => Math.floor(bytes / REQUEST_BYTES);

function bigEndian(word: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, word);
  return bytes;
}
