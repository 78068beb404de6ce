/**
 * A link's journal: what its worker has received and not answered, in memory that outlives the worker.
 *
 * Requests are received straight into it, and a request's own first word is its state. Whatever instant a worker is
 * killed at, the words below tell the next one exactly what is left to do; recovery.ts does so. The argument, by state:
 *
 *   first word of a slot     what it means                                    who makes it so, and the instant between
 *   0                        free: never used, or answered                    `answered`, after the reply has left
 *   the request's magic      received, not answered                           recv(2) itself: counted or not, it is here
 *   SENDING                  its reply may or may not have left               `sending`, before the reply can leave
 *
 *   batch                    where the replies of all SENDING slots are
 *   IDLE                     in one send(2), before, inside or after it. It was made only where a unix stream takes
 *                            all or nothing (journaled-replies.ts): the kernel's own count of reads in flight tells
 *                            which (account.ts).
 *   FILLING, n committed     on their way into the link's pipe: nothing of that has left; what is in the pipe is dropped
 *   FILLED, n committed      in the pipe or gone: all but what the pipe still holds has left, exactly
 *
 * Order of stores, each one word: SENDING for every slot of the batch, then FILLING, then (the pipe is written),
 * FILLED, (the pipe is emptied into the socket), 0 for every slot, IDLE. Between the zeros and IDLE an empty pipe
 * with FILLED means done; between the first SENDING and FILLING nothing has left, and IDLE with an unsent send(2)
 * says the same. A reply that is larger than the pipe goes through FILLING and FILLED several times: the bytes
 * committed before stand, those of a file never change.
 *
 * Beside these words stand counters, the time of the last receive and, behind the slots, how long requests took
 * (latency.ts). Nothing is decided by them, so their order does not matter: a kill between two of them costs a count.
 *
 * Shared by a worker, which writes, and its manager, which reads and, while no worker has the link, settles.
 */
import { NbdProtocolError } from "../nbd/protocol-error.ts";
import { decodeRequestInto, NBD_REQUEST_MAGIC, type NbdRequest, REQUEST_BYTES } from "../nbd/wire.ts";
import { loopClock } from "../sys/loop-clock.ts";
import { addLatency, LATENCY_WORDS } from "./latency.ts";

/** More than the kernel has on one socket (128 per queue; about 220 seen where another link had died). */
export const SLOTS = 512;
/** `JNL1` in memory order: a file of another layout is not taken for ours. */
const LAYOUT = 0x314c4e4a;
const SLOTS_AT = 64;
const LATENCIES_AT = SLOTS_AT + SLOTS * REQUEST_BYTES;
/**
 * Bytes of a journal. Latencies take what its last page has left: one that a former version made ends before them,
 * and its page is mapped whole all the same.
 */
export const JOURNAL_BYTES: number = LATENCIES_AT + LATENCY_WORDS * 8;

/** How many requests so many unread bytes of a link are. */
export const wholeRequests = (bytes: number): number => Math.floor(bytes / REQUEST_BYTES);

const SLOT_WORDS = REQUEST_BYTES / 4;
const FIRST_SLOT_WORD = SLOTS_AT / 4;
/** Of a request's words, the first of its cookie. */
const COOKIE_WORD = 2;
const FREE = 0;
/** The magic as the first word of a request, big-endian on the wire, looks in memory here. */
const RECEIVED: number = new Int32Array(bigEndian(NBD_REQUEST_MAGIC).buffer)[0] as number;
const SENDING = 0x5e4d1b67;

const LAYOUT_WORD = 0;
const BATCH_WORD = 1;
const BATCH_BYTES_WORD = 2;
const BUSY_WORD = 3;
/** Counters are doubles: exact to 2^53, and one store each. */
const ANSWERED = 3;
const READ_BYTES = 4;
const READ_ERRORS = 5;
/** When something was received last, by the loop's clock. */
const RECEIVED_AT = 6;
/** When the lease was last seen held under which pages of the file itself are sent; 0: only copies are. */
const LEASE_SEEN_AT = 7;
/** How far `space` looks: what comes at once is less, and looking costs. */
const MAX_RECEIVED_SLOTS = 64;

const IDLE = -1;

/** Where the replies of the SENDING slots are; see above. */
export type Batch =
  | { readonly phase: "idle" }
  | { readonly phase: "filling" | "filled"; readonly committedBytes: number; readonly totalBytes: number };

export class Journal {
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;
  readonly #bytes: Uint8Array;
  /** Received slots that a former worker left, to be decoded first. */
  readonly #inherited: number[];
  /** Slots in [cursor, head) have been received and not decoded. Private: a successor looks at the words. */
  #cursor = 0;
  #head = 0;
  #slot = 0;
  /** When each slot's request was received; made by the process that receives. */
  #receivedAtMs: Float64Array | undefined;
  readonly #latencies: Float64Array;

  /** Over JOURNAL_BYTES of memory: all zeros for a fresh link, or what another worker left there. */
  constructor(memory: ArrayBuffer) {
    this.#words = new Int32Array(memory, 0, LATENCIES_AT / 4);
    this.#doubles = new Float64Array(memory, 0, SLOTS_AT / 8);
    this.#bytes = new Uint8Array(memory, 0, LATENCIES_AT);
    this.#latencies = new Float64Array(memory, LATENCIES_AT, LATENCY_WORDS);
    if (this.#words[LAYOUT_WORD] !== LAYOUT) {
      this.#words[BATCH_WORD] = IDLE;
      this.#words[LAYOUT_WORD] = LAYOUT;
    }
    this.#inherited = this.slotsIn("received");
    this.#head = this.#firstFree(0);
    this.#cursor = this.#head;
  }

  /** The memory that requests are received into, at `receiveAt`. */
  get inbox(): Uint8Array {
    return this.#bytes;
  }

  get receiveAt(): number {
    if (this.#cursor === this.#head) this.#skipUsed();
    return SLOTS_AT + this.#head * REQUEST_BYTES;
  }

  /** Bytes that may be received at `receiveAt`: whole slots; 0 while every slot holds an unanswered request. */
  get space(): number {
    if (this.#cursor === this.#head) this.#skipUsed();
    const limit = Math.min(SLOTS, this.#head + MAX_RECEIVED_SLOTS);
    let end = this.#head;
    while (end < limit && this.#word(end) === FREE) end += 1;
    return (end - this.#head) * REQUEST_BYTES;
  }

  /** `count` bytes have landed. @throws NbdProtocolError unless they are whole requests, as a kernel sends them on a unix socket */
  received(count: number): void {
    if (count % REQUEST_BYTES !== 0)
      throw new NbdProtocolError(`cannot go on with a link: part of a request came, ${count} bytes`, 0);
    const end = this.#head + count / REQUEST_BYTES;
    const stamps = this.#stamps;
    const { nowMs } = loopClock;
    for (let slot = this.#head; slot < end; slot += 1) stamps[slot] = nowMs;
    this.#doubles[RECEIVED_AT] = nowMs;
    this.#head = end;
  }

  /** Decodes the next request; false when there is none. `slot` names it then. @throws NbdProtocolError on a wrong magic */
  next(request: NbdRequest): boolean {
    const inherited = this.#inherited.shift();
    if (inherited !== undefined) this.#slot = inherited;
    else if (this.#cursor === this.#head) return false;
    else this.#slot = this.#cursor++;
    if (decodeRequestInto(request, this.#bytes, SLOTS_AT + this.#slot * REQUEST_BYTES)) return true;
    throw new NbdProtocolError("cannot go on with a link: what came is not a request", 0);
  }

  /** A payload cannot be journaled, and a kernel sends none to a read-only device. @throws NbdProtocolError */
  skip(lengthBytes: number): void {
    throw new NbdProtocolError(`cannot go on with a link: a payload of ${lengthBytes} bytes came`, 0);
  }

  /** The slot of the request that `next` decoded last. */
  get slot(): number {
    return this.#slot;
  }

  /** From now on the reply to this request may have left. */
  sending(slot: number): void {
    Atomics.store(this.#words, FIRST_SLOT_WORD + slot * SLOT_WORDS, SENDING);
  }

  /** Its reply has not left and will not without being sent anew. */
  unsent(slot: number): void {
    Atomics.store(this.#words, FIRST_SLOT_WORD + slot * SLOT_WORDS, RECEIVED);
  }

  /** Its reply has left, all of it. */
  answered(slot: number): void {
    Atomics.store(this.#words, FIRST_SLOT_WORD + slot * SLOT_WORDS, FREE);
    this.#doubles[ANSWERED] = (this.#doubles[ANSWERED] as number) + 1;
  }

  /** The replies to these requests, sent together, have just left: notes how long they took since they were received. */
  measure(slots: readonly number[]): void {
    const stamps = this.#stamps;
    const nowMs = loopClock.read();
    for (const slot of slots) addLatency(this.#latencies, nowMs - (stamps[slot] as number));
  }

  /** Adds what requests took, by bucket (latency.ts), to a total. */
  addLatenciesTo(total: number[]): void {
    this.#latencies.forEach((value, at) => {
      total[at] = (total[at] ?? 0) + value;
    });
  }

  /** The pipe is about to be filled with bytes of the SENDING slots' replies, `committedBytes` of which have left. */
  filling(committedBytes: number, totalBytes: number): void {
    if (committedBytes === 0) Atomics.store(this.#words, BATCH_BYTES_WORD, totalBytes);
    Atomics.store(this.#words, BATCH_WORD, committedBytes * 2);
  }

  /** The pipe holds bytes up to `committedBytes` of the replies, and they may leave from now on. */
  filled(committedBytes: number): void {
    Atomics.store(this.#words, BATCH_WORD, committedBytes * 2 + 1);
  }

  /** No reply is in the pipe. */
  idle(): void {
    Atomics.store(this.#words, BATCH_WORD, IDLE);
  }

  get batch(): Batch {
    const word = this.#words[BATCH_WORD] as number;
    if (word === IDLE) return { phase: "idle" };
    const phase = (word & 1) === 1 ? "filled" : "filling";
    return { phase, committedBytes: word >> 1, totalBytes: this.#words[BATCH_BYTES_WORD] as number };
  }

  /** Whether the worker is inside this link's code now: whose fault its death is, where nothing else tells. */
  get busy(): boolean {
    return this.#words[BUSY_WORD] === 1;
  }

  set busy(busy: boolean) {
    this.#words[BUSY_WORD] = busy ? 1 : 0;
  }

  /** When the image's lease was last seen held, by the loop's clock; 0 while nothing is sent under one. */
  get leaseSeenAtMs(): number {
    return this.#doubles[LEASE_SEEN_AT] as number;
  }

  set leaseSeenAtMs(value: number) {
    this.#doubles[LEASE_SEEN_AT] = value;
  }

  /** Slots in a state; «unknown» where the word is none that we or the kernel write. */
  slotsIn(state: "received" | "sending" | "unknown"): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const word = this.#word(slot);
      const is = word === RECEIVED ? "received" : word === SENDING ? "sending" : "unknown";
      if (word !== FREE && is === state) slots.push(slot);
    }
    return slots;
  }

  /** Whether anything that was received is not answered. */
  get hasUnanswered(): boolean {
    for (let slot = 0; slot < SLOTS; slot += 1) if (this.#word(slot) !== FREE) return true;
    return false;
  }

  /** Tells each slot that holds an unanswered request, with the two words of its cookie, which no other request had. */
  forEachUnanswered(tell: (slot: number, cookieHigh: number, cookieLow: number) => void): void {
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const at = FIRST_SLOT_WORD + slot * SLOT_WORDS;
      if (this.#words[at] !== FREE)
        tell(slot, this.#words[at + COOKIE_WORD] as number, this.#words[at + COOKIE_WORD + 1] as number);
    }
  }

  /** The request in a slot, whatever its state. */
  requestIn(slot: number, request: NbdRequest): void {
    const copy = this.#bytes.slice(SLOTS_AT + slot * REQUEST_BYTES, SLOTS_AT + (slot + 1) * REQUEST_BYTES);
    new Int32Array(copy.buffer)[0] = RECEIVED;
    decodeRequestInto(request, copy, 0);
  }

  /** Requests whose reply has left. */
  get requests(): number {
    return this.#doubles[ANSWERED] as number;
  }

  get readBytes(): number {
    return this.#doubles[READ_BYTES] as number;
  }

  set readBytes(value: number) {
    this.#doubles[READ_BYTES] = value;
  }

  get readErrors(): number {
    return this.#doubles[READ_ERRORS] as number;
  }

  set readErrors(value: number) {
    this.#doubles[READ_ERRORS] = value;
  }

  /** What a former worker received counts from its last receive: it came then, or shortly before. */
  get #stamps(): Float64Array {
    this.#receivedAtMs ??= new Float64Array(SLOTS).fill(this.#doubles[RECEIVED_AT] || loopClock.nowMs);
    return this.#receivedAtMs;
  }

  #word(slot: number): number {
    return this.#words[FIRST_SLOT_WORD + slot * SLOT_WORDS] as number;
  }

  /** Goes on behind slots that are still in use, and at the front after the last: the next free one, if there is any. */
  #skipUsed(): void {
    if (this.#head < SLOTS && this.#word(this.#head) === FREE) return;
    this.#head = this.#firstFree(this.#head);
    this.#cursor = this.#head;
  }

  #firstFree(from: number): number {
    for (let tried = 0; tried < SLOTS; tried += 1) {
      const slot = (from + tried) % SLOTS;
      if (this.#word(slot) === FREE) return slot;
    }
    return SLOTS;
  }
}

function bigEndian(word: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, word);
  return bytes;
}
