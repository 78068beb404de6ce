/**
 * A transport whose kernel is a function, for tests at byte level, also of users of this package.
 *
 * `createFakeTransport((request, kernel) => kernel.deliver(answer))` gives what NetlinkSocket and openTransport take.
 * It passes bytes in and out and injects errors, without knowledge of message formats.
 */
import { SyscallError } from "../errors.ts";
import type { NetlinkTransport, ReadWatch, ReceivedDatagram } from "./transport.ts";

/** What the function behind a fake transport can do. */
export interface FakeKernel {
  /** Queues a datagram for the client. */
  deliver(
    bytes: Uint8Array,
    options?: { readonly senderPortId?: number; readonly truncated?: boolean },
  ): void;
  /** Makes a later receive fail with that errno, after what was delivered before. */
  failReceive(errno: number): void;
  /** Makes the next send fail with that errno before the function sees it. */
  failSend(errno: number): void;
}

/** Answers one request; the send returns when it has (so a promise that hangs is a stuck driver). */
export type FakeHandler = (request: Uint8Array, kernel: FakeKernel) => void | Promise<void>;

/** A transport whose kernel side the test controls. */
export interface FakeTransport extends NetlinkTransport, FakeKernel {
  /** Every request in order. */
  readonly sent: readonly Uint8Array[];
  /** Every group that was joined, in order. */
  readonly joinedGroups: readonly number[];
  readonly isClosed: boolean;
  /** How many watches run: 0 after everything has ended. */
  readonly watchCount: number;
}

class ScriptedTransport implements FakeTransport {
  readonly portId = 4711;
  readonly receiveBufferBytes: number;
  readonly sent: Uint8Array[] = [];
  readonly joinedGroups: number[] = [];
  isClosed = false;
  readonly #handler: FakeHandler;
  readonly #queue: (ReceivedDatagram | SyscallError)[] = [];
  readonly #watches = new Set<() => void>();
  readonly #sendFailures: number[] = [];

  constructor(handler: FakeHandler, receiveBufferBytes: number) {
    this.#handler = handler;
    this.receiveBufferBytes = receiveBufferBytes;
  }

  get watchCount(): number {
    return this.#watches.size;
  }

  deliver(
    bytes: Uint8Array,
    options: { readonly senderPortId?: number; readonly truncated?: boolean } = {},
  ): void {
    this.#queue.push({
      bytes,
      senderPortId: options.senderPortId ?? 0,
      truncated: options.truncated ?? false,
    });
    this.#notify();
  }

  failReceive(errno: number): void {
    this.#queue.push(new SyscallError("receive from", errno));
    this.#notify();
  }

  failSend(errno: number): void {
    this.#sendFailures.push(errno);
  }

  async send(datagram: Uint8Array): Promise<void> {
    this.#requireOpen();
    const errno = this.#sendFailures.shift();
    if (errno !== undefined) throw new SyscallError("send on", errno);
    this.sent.push(datagram.slice());
    await this.#handler(datagram, this);
  }

  receive(): ReceivedDatagram | undefined {
    this.#requireOpen();
    const next = this.#queue.shift();
    if (next instanceof SyscallError) throw next;
    return next;
  }

  async receiveOffLoop(): Promise<ReceivedDatagram | undefined> {
    return this.receive();
  }

  async joinGroup(groupId: number): Promise<void> {
    this.#requireOpen();
    this.joinedGroups.push(groupId);
  }

  watch(onReadable: () => void): ReadWatch {
    this.#requireOpen();
    this.#watches.add(onReadable);
    if (this.#queue.length > 0) this.#notify();
    return { stop: () => this.#watches.delete(onReadable) };
  }

  close(): void {
    this.#requireOpen();
    this.isClosed = true;
  }

  /** Level-triggered like poll: calls again while something is queued and a watch runs. */
  #notify(): void {
    setImmediate(() => {
      if (this.#queue.length === 0 || this.#watches.size === 0) return;
      for (const watch of [...this.#watches]) watch();
      this.#notify();
    });
  }

  #requireOpen(): void {
    if (this.isClosed) throw new Error("cannot use the fake transport: it was closed");
  }
}

/** A transport whose kernel is `handler`. */
export function createFakeTransport(handler: FakeHandler, receiveBufferBytes = 425_984): FakeTransport {
  return new ScriptedTransport(handler, receiveBufferBytes);
}
