/**
 * The kernel's side of one link, played by a test: it sends requests without end, takes replies at its own pace, and
 * counts.
 *
 * A request counts as in flight from before it can be seen in the socket until some time after its reply was read
 * whole, as in the nbd driver. It throws at a second answer, at wrong bytes, and at an error that was not due. It
 * shares no code with what it checks but the system calls.
 */
import { MSG_DONTWAIT, MSG_NOSIGNAL, recv, send } from "../../../src/sys/libc/sockets.ts";

/** How one link is used. */
export interface LinkHabits {
  /** Requests on the wire at most. */
  readonly depth: number;
  /** Lengths of reads, over and over. */
  readonly lengths: readonly number[];
  /** Every so many requests one lies outside the image, and must be refused. */
  readonly refusedEvery: number;
  /** Bytes taken at a turn, at most. */
  readonly gulpBytes: number;
  /** Turns between a reply's last byte and its request's end. */
  readonly completionTurns: number;
}

interface Asked {
  readonly at: number;
  readonly length: number;
  readonly refused: boolean;
}

const REPLY_HEADER = 16;

export class KernelSide {
  readonly #fd: number;
  readonly #image: Uint8Array;
  readonly #habits: LinkHabits;
  readonly #asked = new Map<string, Asked>();
  readonly #reply: Buffer;
  /** Turns left, of replies that were read and whose requests still count. */
  #completing: number[] = [];
  #heldBytes = 0;
  #next = 0;
  answered = 0;
  /** Whether it goes on asking. */
  asks = true;
  /** Whether it takes replies. */
  reads = true;

  /** `image` is what lies behind the link; the descriptor stays the caller's. */
  constructor(fd: number, image: Uint8Array, habits: LinkHabits) {
    this.#fd = fd;
    this.#image = image;
    this.#habits = habits;
    this.#reply = Buffer.alloc(Math.max(...habits.lengths) + REPLY_HEADER + habits.gulpBytes);
  }

  /** What the kernel's books say is on the wire. */
  get inFlight(): number {
    return this.#asked.size + this.#completing.length;
  }

  /**
   * One turn: ends what was read long enough ago, asks for more, takes a gulp.
   * @throws Error on anything that must not be
   */
  turn(): void {
    this.#completing = this.#completing.map((left) => left - 1).filter((left) => left > 0);
    while (this.asks && this.inFlight < this.#habits.depth) this.#ask();
    if (!this.reads) return;
    const room = Math.min(this.#habits.gulpBytes, this.#reply.length - this.#heldBytes);
    const got = recv(this.#fd, this.#reply.subarray(this.#heldBytes), room, MSG_DONTWAIT);
    if (got === 0) throw new Error("the link has ended");
    if (got > 0) this.#heldBytes += got;
    while (this.#take());
  }

  #ask(): void {
    const { lengths, refusedEvery } = this.#habits;
    const number = this.#next++;
    const length = lengths[number % lengths.length] as number;
    const refused = number % refusedEvery === refusedEvery - 1;
    const spread = (number * 7919 * 512) % (this.#image.length - length);
    const asked = { at: refused ? this.#image.length : spread & ~511, length, refused };
    const request = Buffer.alloc(28);
    request.writeUInt32BE(0x25609513, 0);
    request.writeBigUInt64BE(BigInt(number), 8);
    request.writeBigUInt64BE(BigInt(asked.at), 16);
    request.writeUInt32BE(length, 24);
    this.#asked.set(String(number), asked);
    const sent = send(this.#fd, request, request.length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent !== request.length) throw new Error(`the socket took ${sent} bytes of a request`);
  }

  #take(): boolean {
    if (this.#heldBytes < REPLY_HEADER) return false;
    if (this.#reply.readUInt32BE(0) !== 0x67446698) throw new Error("what came is no reply");
    const cookie = String(this.#reply.readBigUInt64BE(8));
    const asked = this.#asked.get(cookie);
    if (asked === undefined) throw new Error(`a second answer to request ${cookie}`);
    const errno = this.#reply.readUInt32BE(4);
    if ((errno !== 0) !== asked.refused) throw new Error(`request ${cookie} was answered with ${errno}`);
    const length = errno === 0 ? asked.length : 0;
    if (this.#heldBytes < REPLY_HEADER + length) return false;
    const wanted = this.#image.subarray(asked.at, asked.at + length);
    if (Buffer.compare(this.#reply.subarray(REPLY_HEADER, REPLY_HEADER + length), wanted) !== 0)
      throw new Error(`wrong bytes for request ${cookie}`);
    this.#reply.copyWithin(0, REPLY_HEADER + length, this.#heldBytes);
    this.#heldBytes -= REPLY_HEADER + length;
    this.#asked.delete(cookie);
    this.#completing.push(this.#habits.completionTurns);
    this.answered += 1;
    return true;
  }
}
