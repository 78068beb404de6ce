/**
 * A link's journal: the requests that its worker has received and not answered, in memory that outlives the worker.
 *
 * The worker writes it. The manager reads it, and settles it (recovery.ts) while no worker has the link. The layout and
 * the argument for its states are in layout.ts.
 */
import { NbdProtocolError } from "../nbd/protocol-error.ts";
import { decodeRequestInto, type NbdRequest, REQUEST_BYTES } from "../nbd/wire.ts";
import { loopClock } from "../sys/loop-clock.ts";
import { addLatency, LATENCY_WORDS } from "./latency.ts";
import {
  ANSWERED,
  BATCH_BYTES_WORD,
  BATCH_WORD,
  BUSY_WORD,
  COOKIE_WORD,
  ENTRIES,
  ENTRIES_AT,
  ENTRY_WORDS,
  FIRST_ENTRY_WORD,
  FREE,
  IDLE,
  LATENCIES_AT,
  LAYOUT,
  LAYOUT_WORD,
  LEASE_SEEN_AT,
  PIPE_PAGES_HALF,
  PIPE_WISH_HALF,
  READ_BYTES,
  READ_ERRORS,
  RECEIVED,
  RECEIVED_AT,
  SENDING,
} from "./layout.ts";

const PIPE_PAGE_BYTES = 4096;
/** How far `space` looks for free entries: less than that comes at once, and looking costs. */
const MAX_RECEIVED_ENTRIES = 64;

/** Where the replies of the SENDING entries are; see layout.ts. */
export type Batch =
  | { readonly phase: "idle" }
  | { readonly phase: "filling" | "filled"; readonly committedBytes: number; readonly totalBytes: number };

export class Journal {
  readonly #words: Int32Array;
  readonly #halves: Int16Array;
  readonly #doubles: Float64Array;
  readonly #bytes: Uint8Array;
  /** Received entries that a former worker left, to be decoded first. */
  readonly #inherited: number[];
  /** Entries in [cursor, head) have been received and not decoded. A successor looks at the words instead. */
  #cursor = 0;
  #head = 0;
  #entry = 0;
  /** When the request in each entry was received. Made by the process that receives. */
  #receivedAtMs: Float64Array | undefined;
  readonly #latencies: Float64Array;

  /**
   * Over JOURNAL_BYTES of memory: zeros for a fresh link, or what another worker left there.
   * @throws Error when it has another layout: its contents are unknown here and must not be overwritten
   */
  constructor(memory: ArrayBuffer) {
    this.#words = new Int32Array(memory, 0, LATENCIES_AT / 4);
    this.#halves = new Int16Array(memory, 0, ENTRIES_AT / 2);
    this.#doubles = new Float64Array(memory, 0, ENTRIES_AT / 8);
    this.#bytes = new Uint8Array(memory, 0, LATENCIES_AT);
    this.#latencies = new Float64Array(memory, LATENCIES_AT, LATENCY_WORDS);
    const layout = this.#words[LAYOUT_WORD];
    if (layout === 0) {
      this.#words[BATCH_WORD] = IDLE;
      this.#words[LAYOUT_WORD] = LAYOUT;
    } else if (layout !== LAYOUT) throw new Error("cannot read a journal: it was made by another version");
    this.#inherited = this.entriesIn("received");
    this.#head = this.#firstFree(0);
    this.#cursor = this.#head;
  }

  /** The memory that requests are received into, at `receiveAt`. */
  get inbox(): Uint8Array {
    return this.#bytes;
  }

  get receiveAt(): number {
    if (this.#cursor === this.#head) this.#skipUsed();
    return ENTRIES_AT + this.#head * REQUEST_BYTES;
  }

  /** Bytes that may be received at `receiveAt`: whole entries; 0 while every entry holds an unanswered request. */
  get space(): number {
    if (this.#cursor === this.#head) this.#skipUsed();
    const limit = Math.min(ENTRIES, this.#head + MAX_RECEIVED_ENTRIES);
    let end = this.#head;
    while (end < limit && this.#word(end) === FREE) end += 1;
    return (end - this.#head) * REQUEST_BYTES;
  }

  /** Counts received bytes. @throws NbdProtocolError unless they are whole requests, as a kernel sends them */
  received(count: number): void {
    if (count % REQUEST_BYTES !== 0)
      throw new NbdProtocolError(`cannot decode requests: ${count} bytes are no whole number of requests`, 0);
    const end = this.#head + count / REQUEST_BYTES;
    const stamps = this.#stamps;
    const { nowMs } = loopClock;
    for (let entry = this.#head; entry < end; entry += 1) stamps[entry] = nowMs;
    this.#doubles[RECEIVED_AT] = nowMs;
    this.#head = end;
  }

  /** Decodes the next request, in `entry`; false when there is none. @throws NbdProtocolError on a wrong magic */
  next(request: NbdRequest): boolean {
    const inherited = this.#inherited.shift();
    if (inherited !== undefined) this.#entry = inherited;
    else if (this.#cursor === this.#head) return false;
    else this.#entry = this.#cursor++;
    if (decodeRequestInto(request, this.#bytes, ENTRIES_AT + this.#entry * REQUEST_BYTES)) return true;
    throw new NbdProtocolError("cannot decode a request: it has a wrong magic", 0);
  }

  /** Payloads cannot be journaled, and a kernel sends none to a read-only device. @throws NbdProtocolError */
  skip(lengthBytes: number): void {
    throw new NbdProtocolError(`cannot journal a payload of ${lengthBytes} bytes`, 0);
  }

  /** The entry of the request that `next` decoded last. */
  get entry(): number {
    return this.#entry;
  }

  /** From now on the reply to this request may have left. */
  sending(entry: number): void {
    Atomics.store(this.#words, FIRST_ENTRY_WORD + entry * ENTRY_WORDS, SENDING);
  }

  /** The reply has not left and will not, unless it is sent anew. */
  unsent(entry: number): void {
    Atomics.store(this.#words, FIRST_ENTRY_WORD + entry * ENTRY_WORDS, RECEIVED);
  }

  /** The whole reply has left. */
  answered(entry: number): void {
    Atomics.store(this.#words, FIRST_ENTRY_WORD + entry * ENTRY_WORDS, FREE);
    this.#doubles[ANSWERED] = (this.#doubles[ANSWERED] as number) + 1;
  }

  /** Notes how long these requests took since they were received. Their replies, sent together, have just left. */
  measure(entries: readonly number[]): void {
    const stamps = this.#stamps;
    const nowMs = loopClock.read();
    for (const entry of entries) addLatency(this.#latencies, nowMs - (stamps[entry] as number));
  }

  /** Adds the latency buckets (latency.ts) to a total. */
  addLatenciesTo(total: number[]): void {
    this.#latencies.forEach((value, at) => {
      total[at] = (total[at] ?? 0) + value;
    });
  }

  /** The pipe is about to be filled with replies of the SENDING entries; `committedBytes` of them have left. */
  filling(committedBytes: number, totalBytes: number): void {
    if (committedBytes === 0) Atomics.store(this.#words, BATCH_BYTES_WORD, totalBytes);
    Atomics.store(this.#words, BATCH_WORD, committedBytes * 2);
  }

  /** The pipe holds the replies up to `committedBytes`, and they may leave from now on. */
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

  /** Whether the worker is executing this link's code. If it dies there, the death is attributed to the link. */
  get busy(): boolean {
    return this.#words[BUSY_WORD] === 1;
  }

  set busy(busy: boolean) {
    this.#words[BUSY_WORD] = busy ? 1 : 0;
  }

  /** What the worker's large replies need of the pipe, noted at each. */
  set pipeWishBytes(bytes: number) {
    this.#halves[PIPE_WISH_HALF] = Math.ceil(bytes / PIPE_PAGE_BYTES);
  }

  /** For the manager: the wish of the worker since the last call; 0 if there was none. A worker may write any value. */
  takePipeWish(): number {
    return Atomics.exchange(this.#halves, PIPE_WISH_HALF, 0) * PIPE_PAGE_BYTES;
  }

  /** The pipe's capacity as the manager has last set it; 0: it has not. */
  get pipeBytes(): number {
    return (this.#halves[PIPE_PAGES_HALF] as number) * PIPE_PAGE_BYTES;
  }

  set pipeBytes(bytes: number) {
    this.#halves[PIPE_PAGES_HALF] = bytes / PIPE_PAGE_BYTES;
  }

  /** When the image's lease was last seen held, by the loop's clock; 0 while nothing is sent under one. */
  get leaseSeenAtMs(): number {
    return this.#doubles[LEASE_SEEN_AT] as number;
  }

  set leaseSeenAtMs(value: number) {
    this.#doubles[LEASE_SEEN_AT] = value;
  }

  /** The entries in a state; "unknown" is any word that neither this class nor the kernel writes. */
  entriesIn(state: "received" | "sending" | "unknown"): number[] {
    const entries: number[] = [];
    for (let entry = 0; entry < ENTRIES; entry += 1) {
      const word = this.#word(entry);
      const is = word === RECEIVED ? "received" : word === SENDING ? "sending" : "unknown";
      if (word !== FREE && is === state) entries.push(entry);
    }
    return entries;
  }

  /** Whether any received request is unanswered. */
  get hasUnanswered(): boolean {
    for (let entry = 0; entry < ENTRIES; entry += 1) if (this.#word(entry) !== FREE) return true;
    return false;
  }

  /** Calls `tell` for each unanswered request, with the two words of its cookie, which identify it. */
  forEachUnanswered(tell: (entry: number, cookieHigh: number, cookieLow: number) => void): void {
    for (let entry = 0; entry < ENTRIES; entry += 1) {
      const at = FIRST_ENTRY_WORD + entry * ENTRY_WORDS;
      if (this.#words[at] !== FREE)
        tell(entry, this.#words[at + COOKIE_WORD] as number, this.#words[at + COOKIE_WORD + 1] as number);
    }
  }

  /** Decodes the request in an entry, in any state. */
  requestIn(entry: number, request: NbdRequest): void {
    const start = ENTRIES_AT + entry * REQUEST_BYTES;
    const copy = this.#bytes.slice(start, start + REQUEST_BYTES);
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

  /** Requests that a former worker received are stamped with its last receive: they came then, or shortly before. */
  get #stamps(): Float64Array {
    this.#receivedAtMs ??= new Float64Array(ENTRIES).fill(this.#doubles[RECEIVED_AT] || loopClock.nowMs);
    return this.#receivedAtMs;
  }

  #word(entry: number): number {
    return this.#words[FIRST_ENTRY_WORD + entry * ENTRY_WORDS] as number;
  }

  /** Moves the head to the next free entry, from the end around to the front. */
  #skipUsed(): void {
    if (this.#head < ENTRIES && this.#word(this.#head) === FREE) return;
    this.#head = this.#firstFree(this.#head);
    this.#cursor = this.#head;
  }

  #firstFree(from: number): number {
    for (let tried = 0; tried < ENTRIES; tried += 1) {
      const entry = (from + tried) % ENTRIES;
      if (this.#word(entry) === FREE) return entry;
    }
    return ENTRIES;
  }
}
