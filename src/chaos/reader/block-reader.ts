/**
 * Keeps a number of reads of a device going, compares each with the image, and tells how long they took.
 *
 * Runs in the reader process (reader-main.ts), because its reads may wait in the kernel where no signal reaches them.
 * Latency counts from the call to its end in the event loop; comparing comes after. It never retries and never stops by
 * itself: what to do about a wrong byte is for the engine to say.
 */
import { read } from "node:fs";
import { addressOf } from "../../sys/libc/bind.ts";
import { Latencies } from "../latencies.ts";
import type { Difference, ImageReference } from "./image-reference.ts";
import type { Range, ReadPattern } from "./read-pattern.ts";
import { monotonicMs, type ReaderMessage } from "./reader-protocol.ts";

/** How many wrong or failed reads are described in words. */
const MAX_TOLD = 10;

export interface BlockReaderOptions {
  readonly fd: number;
  readonly pattern: ReadPattern;
  readonly reference: ImageReference;
  readonly depth: number;
  readonly beginMs: number;
  readonly spanMs: number;
  readonly send: (message: ReaderMessage) => void;
}

/** Reads called before `from` that have not ended, and reads called since that have to end as well. */
interface Settling {
  readonly from: number;
  before: number;
  after: number;
}

export class BlockReader {
  readonly #options: BlockReaderOptions;
  readonly #totals = { reads: 0, bytes: 0, wrong: 0, errors: 0 };
  #span = { index: 0, bytes: 0, latencies: new Latencies() };
  #window: { reads: number; longestMs: number } | undefined;
  /** What a `settle` still waits for. */
  #settling: Settling | undefined;
  /** Reads are numbered in the order of their calls. */
  #called = 0;
  /** Calls that have not ended; a slot between two reads has none. */
  #underWay = 0;
  /** Slots that have not left. */
  #running = 0;
  #stopping = false;

  constructor(options: BlockReaderOptions) {
    this.#options = options;
  }

  start(): void {
    const { depth, pattern, send } = this.#options;
    for (let slot = 0; slot < depth; slot += 1) {
      this.#running += 1;
      this.#readNext(slot, alignedBuffer(pattern.longestBytes, pattern.unitBytes));
    }
    send({ type: "reading" });
  }

  open(): void {
    this.#window = { reads: 0, longestMs: 0 };
    this.#options.send({ type: "opened" });
  }

  settle(): void {
    this.#settling = { from: this.#called, before: this.#underWay, after: this.#options.depth };
  }

  stop(): void {
    this.#stopping = true;
  }

  /** Sends the span so far, if it is over and holds anything. */
  flush(): void {
    const index = this.#spanNow();
    if (index === this.#span.index) return;
    this.#sendSpan();
    this.#span = { index, bytes: 0, latencies: new Latencies() };
  }

  #spanNow(): number {
    return Math.floor((monotonicMs() - this.#options.beginMs) / this.#options.spanMs);
  }

  #sendSpan(): void {
    const { index, bytes, latencies } = this.#span;
    if (latencies.count === 0) return;
    const { longestMs } = latencies;
    this.#options.send({ type: "span", index, bytes, counts: latencies.toSparse(), longestMs });
  }

  #readNext(slot: number, buffer: Uint8Array): void {
    if (this.#stopping) {
      this.#running -= 1;
      if (this.#running === 0) this.#finish();
      return;
    }
    const range = this.#options.pattern.next(slot);
    const number = this.#called;
    this.#called += 1;
    this.#underWay += 1;
    const calledMs = monotonicMs();
    read(this.#options.fd, buffer, 0, range.lengthBytes, range.offsetBytes, (error, count) => {
      this.#count(number, range, monotonicMs() - calledMs);
      if (error !== null) this.#failed(range, error.message);
      else if (count !== range.lengthBytes)
        this.#failed(range, `only ${count} of ${range.lengthBytes} bytes came`);
      else this.#compare(range, buffer.subarray(0, count));
      // A read that fails at once must not starve the event loop.
      setImmediate(() => this.#readNext(slot, buffer));
    });
  }

  #count(number: number, { lengthBytes }: Range, tookMs: number): void {
    this.flush();
    this.#underWay -= 1;
    this.#totals.reads += 1;
    this.#totals.bytes += lengthBytes;
    this.#span.bytes += lengthBytes;
    this.#span.latencies.add(tookMs);
    if (this.#window !== undefined) {
      this.#window.reads += 1;
      this.#window.longestMs = Math.max(this.#window.longestMs, tookMs);
    }
    if (this.#settling !== undefined) this.#settleWith(this.#settling, number);
  }

  #settleWith(settling: Settling, number: number): void {
    if (number < settling.from) settling.before -= 1;
    else settling.after -= 1;
    if (settling.before > 0 || settling.after > 0) return;
    const { longestMs, reads } = this.#window ?? { longestMs: 0, reads: 0 };
    this.#settling = undefined;
    this.#window = undefined;
    this.#options.send({ type: "settled", longestMs, reads });
  }

  #compare(range: Range, got: Uint8Array): void {
    let difference: Difference | undefined;
    try {
      difference = this.#options.reference.compare(range.offsetBytes, got);
    } catch (error) {
      return this.#failed(range, error instanceof Error ? error.message : String(error));
    }
    if (difference === undefined) return;
    this.#totals.wrong += 1;
    this.#tell(`wrong bytes in a ${describe(range)}: ${inWords(difference)}`);
  }

  #failed(range: Range, why: string): void {
    this.#totals.errors += 1;
    this.#tell(`a ${describe(range)} failed: ${why}`);
  }

  #tell(what: string): void {
    const { wrong, errors } = this.#totals;
    if (wrong + errors <= MAX_TOLD) this.#options.send({ type: "trouble", wrong, errors, what });
  }

  #finish(): void {
    this.#sendSpan();
    this.#options.send({ type: "stopped", ...this.#totals });
  }
}

const describe = ({ offsetBytes, lengthBytes }: Range): string =>
  `read of ${lengthBytes} bytes at ${offsetBytes}`;

function inWords({ offsetBytes, wrongBytes, wanted, got }: Difference): string {
  const hex = (byte: number): string => `0x${byte.toString(16).padStart(2, "0")}`;
  return `${wrongBytes} differ from the image, the first at ${offsetBytes} (${hex(got)} instead of ${hex(wanted)})`;
}

/** O_DIRECT requires memory that begins at a multiple of the device's blocks. */
function alignedBuffer(sizeBytes: number, alignment: number): Uint8Array {
  const space = new Uint8Array(sizeBytes + alignment);
  const past = Number(addressOf(space) % BigInt(alignment));
  const start = past === 0 ? 0 : alignment - past;
  return space.subarray(start, start + sizeBytes);
}
