/**
 * The interface between the netlink client and the kernel: datagrams in, datagrams out. Types only.
 *
 * kernel-transport.ts implements it with a socket, fake-transport.ts with a function, so that everything above can
 * be tested at byte level without privileges.
 */

/** One datagram as it arrived. */
export interface ReceivedDatagram {
  /** Owned by the receiver. */
  readonly bytes: Uint8Array;
  /** The sender's port; only messages from 0, the kernel, are accepted. */
  readonly senderPortId: number;
  /** The datagram was longer than `bytes`, the rest is lost. */
  readonly truncated: boolean;
}

/** A running watch; `stop` may be called more than once. */
export interface ReadWatch {
  stop(): void;
}

/** A bound netlink socket, or a replacement for tests. */
export interface NetlinkTransport {
  /** The port that the kernel addresses its answers to. */
  readonly portId: number;
  /** The receive buffer that was granted, in the kernel's own accounting. */
  readonly receiveBufferBytes: number;
  /**
   * Gives the kernel one request. Settles when the kernel's handler has returned, by which time its answer is queued.
   * @throws SyscallError
   */
  send(datagram: Uint8Array): Promise<void>;
  /**
   * The next datagram, or undefined when none is there. Never waits.
   * @throws SyscallError (ENOBUFS: some were dropped)
   */
  receive(): ReceivedDatagram | undefined;
  /** The same without blocking the event loop: receiving during a dump runs the family's dump handler. */
  receiveOffLoop(): Promise<ReceivedDatagram | undefined>;
  /** Joins a multicast group by its number. @throws SyscallError */
  joinGroup(groupId: number): Promise<void>;
  /** Calls back on the event loop while there is something to receive. */
  watch(onReadable: () => void, keepsProcessAlive: boolean): ReadWatch;
  /** Releases the socket. Not while a send or receiveOffLoop is under way. */
  close(): void;
}

/** Options of {@link OpenTransport}. */
export interface TransportOptions {
  /** Wanted receive buffer; the system's default when absent. The forced variant is tried first. */
  readonly receiveBufferBytes?: number | undefined;
}

/** Opens a transport. @throws SyscallError */
export type OpenTransport = (options: TransportOptions) => NetlinkTransport;
