/**
 * A small NBD client for tests of everything that serves: it must not import src/nbd, so that client and server cannot
 * share a mistake. Any number of requests may be on the wire; each ends with its reply or with the connection's end.
 *
 * Works over a path, a port, or a descriptor it is given (a socketpair's end, which it then owns and closes).
 * Nothing here waits for a time: an answer that never comes is for the test's own deadline.
 */

import { connect, Socket } from "node:net";

/** How to reach the server: with `fd` transmission begins at once, otherwise after a handshake. */
export type MiniNbdTarget =
  | { readonly path: string }
  | { readonly host: string; readonly port: number }
  | { readonly fd: number };

/** How to shake hands; the default is GO for the export "". */
export interface MiniNbdHandshake {
  readonly exportName?: string;
  readonly option?: "go" | "export-name";
}

/** One answered request. */
export interface MiniNbdReply {
  /** 0 or an NBD error number. */
  readonly errno: number;
  /** What a READ got; empty otherwise. */
  readonly data: Buffer;
}

interface Pending {
  readonly dataBytes: number;
  readonly resolve: (reply: MiniNbdReply) => void;
  readonly reject: (error: Error) => void;
}

interface Waiter {
  readonly bytes: number;
  readonly resolve: (taken: Buffer) => void;
  readonly reject: (error: Error) => void;
}

const REQUEST_MAGIC = 0x25609513;
const REPLY_MAGIC = 0x67446698;
const OPTION_MAGIC = Buffer.from("IHAVEOPT");
const OPTION_REPLY_MAGIC = Buffer.from("0003e889045565a9", "hex");

/** One connection. */
export class MiniNbdClient {
  readonly #socket: Socket;
  readonly #pending = new Map<bigint, Pending>();
  readonly #chunks: Buffer[] = [];
  #waiter: Waiter | undefined;
  #buffered = 0;
  #cookie = 0n;
  #ended: Error | undefined;
  /** From the handshake; 0 over a descriptor. */
  sizeBytes = 0;
  transmissionFlags = 0;
  /** Resolves when either side has ended the connection. */
  readonly closed: Promise<void>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      socket.once("close", () => {
        this.#fail(new Error("the NBD connection ended"));
        resolve();
      });
    });
    socket.on("error", (error) => this.#fail(error));
    socket.on("end", () => this.#fail(new Error("the NBD server closed the connection")));
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      this.#serveWaiter();
    });
  }

  /** Connects and, but for a descriptor, shakes hands; rejects when the server refuses. */
  static async open(target: MiniNbdTarget, handshake: MiniNbdHandshake = {}): Promise<MiniNbdClient> {
    const client = new MiniNbdClient("fd" in target ? new Socket({ fd: target.fd }) : connect(target));
    if (!("fd" in target)) {
      try {
        await client.#shakeHands(handshake.exportName ?? "", handshake.option ?? "go");
      } catch (error) {
        client.destroy();
        throw error;
      }
    }
    client.#readReplies().catch((error: Error) => client.#fail(error));
    return client;
  }

  /** How many requests are without a reply. */
  get inFlight(): number {
    return this.#pending.size;
  }

  /** Reads a range; rejects on an NBD error. */
  async read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    const { errno, data } = await this.request(0, offsetBytes, lengthBytes);
    if (errno !== 0) throw new Error(`READ of ${lengthBytes} bytes at ${offsetBytes}: NBD error ${errno}`);
    return data;
  }

  /** Sends one request of any type, valid or not, and waits for its reply. */
  request(
    type: number,
    offsetBytes: number | bigint,
    lengthBytes: number,
    options: { readonly flags?: number; readonly payload?: Uint8Array } = {},
  ): Promise<MiniNbdReply> {
    const cookie = ++this.#cookie | 0xabcd_0000_0000_0000n;
    const header = requestHeader(type, options.flags ?? 0, cookie, BigInt(offsetBytes), lengthBytes);
    return new Promise((resolve, reject) => {
      if (this.#ended !== undefined) return reject(this.#ended);
      this.#pending.set(cookie, { dataBytes: type === 0 ? lengthBytes : 0, resolve, reject });
      this.#socket.write(options.payload === undefined ? header : Buffer.concat([header, options.payload]));
    });
  }

  /** Sends bytes as they are. */
  sendRaw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  /** Sends DISC, which gets no reply, and waits until the server has closed. */
  async disconnect(): Promise<void> {
    this.#socket.write(requestHeader(2, 0, 0n, 0n, 0));
    await this.closed;
  }

  /** Stops and resumes taking replies, to fill the server's socket. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Ends the connection at once, without DISC. */
  destroy(): void {
    this.#socket.destroy();
  }

  async #shakeHands(exportName: string, option: "go" | "export-name"): Promise<void> {
    const greeting = await this.#take(18);
    if (greeting.toString("latin1", 0, 16) !== "NBDMAGICIHAVEOPT") throw new Error("no newstyle NBD server");
    const name = Buffer.from(exportName);
    this.#socket.write(Buffer.from([0, 0, 0, 3]));
    if (option === "export-name") {
      this.#socket.write(Buffer.concat([OPTION_MAGIC, u32(1), u32(name.length), name]));
      this.#learn(await this.#take(10), 0);
      return;
    }
    const data = Buffer.concat([u32(name.length), name, Buffer.from([0, 0])]);
    this.#socket.write(Buffer.concat([OPTION_MAGIC, u32(7), u32(data.length), data]));
    for (;;) {
      const header = await this.#take(20);
      if (!header.subarray(0, 8).equals(OPTION_REPLY_MAGIC)) throw new Error("no option reply");
      const type = header.readUInt32BE(12);
      const body = await this.#take(header.readUInt32BE(16));
      if (type === 1) return;
      if (type !== 3) throw new Error(`the NBD server answered GO with 0x${type.toString(16)} ${body}`);
      if (body.readUInt16BE(0) === 0) this.#learn(body, 2);
    }
  }

  #learn(bytes: Buffer, at: number): void {
    this.sizeBytes = Number(bytes.readBigUInt64BE(at));
    this.transmissionFlags = bytes.readUInt16BE(at + 8);
  }

  async #readReplies(): Promise<void> {
    for (;;) {
      const header = await this.#take(16);
      if (header.readUInt32BE(0) !== REPLY_MAGIC)
        throw new Error(`wrong reply magic ${header.toString("hex", 0, 4)}`);
      const cookie = header.readBigUInt64BE(8);
      const pending = this.#pending.get(cookie);
      if (pending === undefined)
        throw new Error(`a reply without a request: cookie 0x${cookie.toString(16)}`);
      const errno = header.readUInt32BE(4);
      const data = await this.#take(errno === 0 ? pending.dataBytes : 0);
      this.#pending.delete(cookie);
      pending.resolve({ errno, data });
    }
  }

  #take(bytes: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#waiter = { bytes, resolve, reject };
      this.#serveWaiter();
    });
  }

  #serveWaiter(): void {
    const waiter = this.#waiter;
    if (waiter === undefined) return;
    if (this.#buffered >= waiter.bytes) {
      const all = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks);
      this.#chunks.length = 0;
      if (all.length > waiter.bytes) this.#chunks.push(all.subarray(waiter.bytes));
      this.#buffered = all.length - waiter.bytes;
      this.#waiter = undefined;
      waiter.resolve(all.subarray(0, waiter.bytes));
    } else if (this.#ended !== undefined) {
      this.#waiter = undefined;
      waiter.reject(this.#ended);
    }
  }

  /** The first failure counts: everything still waiting ends with it. */
  #fail(error: Error): void {
    this.#ended ??= error;
    this.#serveWaiter();
    for (const pending of this.#pending.values()) pending.reject(this.#ended);
    this.#pending.clear();
    this.#socket.destroy();
  }
}

/** A request's 28 bytes. */
export function requestHeader(
  type: number,
  flags: number,
  cookie: bigint,
  offsetBytes: bigint,
  lengthBytes: number,
): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(REQUEST_MAGIC, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(offsetBytes, 16);
  header.writeUInt32BE(lengthBytes, 24);
  return header;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
