/**
 * The read-serving loop as an ordinary NBD server: a listening socket, a handshake per client, then a ServedLink.
 *
 * Used by `serve`. Handshakes run in the same pump as the links. Clients are not trusted: the number of connections and
 * the time for a handshake are limited, and what a client sends can end its own connection only.
 */

import { readOnlyExport } from "../nbd/handshake/export.ts";
import { ServerHandshake } from "../nbd/handshake/server.ts";
import type { StructuredReplies } from "../nbd/request-check.ts";
import type { Exactness } from "../source/exactness.ts";
import { FileSource } from "../source/file-source.ts";
import { leaseBreakTimeMs } from "../source/read-lease.ts";
import type { Source } from "../source/source.ts";
import { EPOLLIN } from "../sys/epoll.ts";
import { ERRNO, errnoName } from "../sys/errno.ts";
import { close } from "../sys/libc/files.ts";
import {
  IPPROTO_TCP,
  MSG_DONTWAIT,
  recv,
  SO_KEEPALIVE,
  SOL_SOCKET,
  setSocketOption,
  TCP_NODELAY,
} from "../sys/libc/sockets.ts";
import { Acceptor } from "../sys/sockets/acceptor.ts";
import { describeEnd, type LinkCounters, type LinkEnd } from "../worker-protocol/link-end.ts";
import { type KeptLease, LeaseKeeper } from "./lease-keeper.ts";
import type { JournaledLink, LinkOptions } from "./link-context.ts";
import { type Pollable, Pump } from "./pump.ts";
import { ReplyQueue } from "./replies/reply-queue.ts";
import { ServedLink } from "./served-link.ts";

/** Default limit of open connections. A connection beyond it is closed at once. */
export const DEFAULT_MAX_CLIENTS = 64;
const HANDSHAKE_DEADLINE_MS = 30_000;
/** A client that does not read is cut off so long after another process has opened the image for writing. */
const DRAIN_PATIENCE_MS = 5000;
/** Receives of a handshake are small, so that what follows the last option fits into a link's inbox. */
const HANDSHAKE_RECEIVE_BYTES = 4096;

/** Log lines of a server, and the counters of each link that has ended. */
export interface NbdServerEvents {
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
  readonly linkEnded?: (end: LinkEnd, counters: LinkCounters) => void;
  /** Gives each connection a journal and simple replies, as links of devices have, to measure its cost. */
  readonly journal?: () => JournaledLink;
}

export class NbdServer {
  readonly #source: Source;
  readonly #exportName: string;
  readonly #events: NbdServerEvents;
  readonly #maxClients: number;
  readonly #pump = new Pump();
  readonly #acceptor: Acceptor;
  readonly #connections = new Set<Connection>();
  readonly #leases = new LeaseKeeper();
  readonly #lease: KeptLease | undefined;

  /** Takes over the listening socket (non-blocking); the source stays the caller's. */
  constructor(
    listenFd: number,
    source: Source,
    exportName: string,
    events: NbdServerEvents,
    maxClients: number = DEFAULT_MAX_CLIENTS,
  ) {
    this.#maxClients = maxClients;
    this.#source = source;
    this.#exportName = exportName;
    this.#events = events;
    this.#acceptor = new Acceptor(listenFd, {
      connection: (fd) => this.#open(fd),
      trouble: (message) => events.log("error", message),
    });
    this.#pump.yieldTo(listenFd, EPOLLIN);
    if (source instanceof FileSource && source.kind === "file") this.#lease = this.#keepLease(source);
  }

  /** How exact answers are now; undefined unless the image is a file. */
  get exactness(): Exactness | undefined {
    return this.#lease?.exactness;
  }

  /** Stops listening and cuts every connection. */
  close(): void {
    this.#acceptor.close();
    for (const connection of this.#connections) connection.close();
    this.#leases.close();
    this.#pump.close();
  }

  /** One lease for all clients. Taken only if the user owns the image or has CAP_LEASE. */
  #keepLease(source: FileSource): KeptLease {
    let lastChange: string | null = null;
    const lease = this.#leases.keep({
      source,
      links: () => [...this.#connections].flatMap(({ link }) => link ?? []),
      changed: ({ exact, change }) => {
        const how = exact === "lease" ? "under a read lease" : "copied, and checked before they leave";
        if (change !== null)
          this.#events.log(
            "error",
            `Reads are answered with errors: the image is not what it was: ${change}`,
          );
        else
          this.#events.log(
            "info",
            `${lastChange === null ? "" : "The image is as it was. "}Bytes are sent ${how}`,
          );
        lastChange = change;
      },
      take: () => source.takeLease(),
      patienceMs: DRAIN_PATIENCE_MS,
    });
    lease.refresh(leaseBreakTimeMs());
    return lease;
  }

  #open(fd: number): void {
    if (this.#connections.size >= this.#maxClients) {
      this.#events.log("warn", `Refused a connection: ${this.#maxClients} are open already`);
      close(fd);
      return;
    }
    // Ends the connection of a client whose machine is gone.
    setSocketOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    // Fails on a unix socket, which delays nothing.
    const isTcp = setSocketOption(fd, IPPROTO_TCP, TCP_NODELAY, 1) === 0;
    const offered = readOnlyExport(this.#exportName, this.#source.sizeBytes);
    // A journal can only take simple replies up again.
    const handshake = new ServerHandshake([offered], this.#events.journal === undefined);
    const connection = new Connection(
      fd,
      this.#pump,
      handshake,
      { source: this.#source, copyOnly: isTcp },
      {
        end: (message, end, counters) => {
          this.#connections.delete(connection);
          this.#events.log(end?.kind === "source-error" ? "error" : "info", message);
          if (end !== undefined && counters !== undefined) this.#events.linkEnded?.(end, counters);
        },
        readError: (error) => this.#events.log("error", error.message),
        journal: () => this.#events.journal?.(),
      },
    );
    this.#connections.add(connection);
    connection.start();
  }
}

interface ConnectionEvents {
  end(message: string, end?: LinkEnd, counters?: LinkCounters): void;
  readError(error: Error): void;
  journal(): JournaledLink | undefined;
}

/** One client: first its handshake, then its link. */
class Connection implements Pollable {
  readonly #fd: number;
  readonly #pump: Pump;
  readonly #handshake: ServerHandshake;
  readonly #options: LinkOptions;
  readonly #events: ConnectionEvents;
  readonly #queue: ReplyQueue;
  readonly #token: number;
  readonly #deadline: NodeJS.Timeout;
  readonly #received = new Uint8Array(HANDSHAKE_RECEIVE_BYTES);
  link: ServedLink | undefined;
  #open = true;

  /**
   * `copyOnly` is set for TCP: the peer's kernel acknowledges bytes that its process has not read yet, and over a
   * loopback or between containers these are still pages of the file.
   */
  constructor(
    fd: number,
    pump: Pump,
    handshake: ServerHandshake,
    options: LinkOptions,
    events: ConnectionEvents,
  ) {
    this.#fd = fd;
    this.#pump = pump;
    this.#handshake = handshake;
    this.#options = options;
    this.#events = events;
    this.#queue = new ReplyQueue(fd);
    this.#token = pump.add(fd, EPOLLIN, this);
    this.#deadline = setTimeout(
      () => this.#end(`it took longer than ${HANDSHAKE_DEADLINE_MS / 1000} s`),
      HANDSHAKE_DEADLINE_MS,
    ).unref();
  }

  start(): void {
    this.#send(this.#handshake.greeting);
  }

  close(): void {
    if (this.link !== undefined) this.link.close();
    else this.#end("the server stops");
  }

  onEvents(): void {
    const got = recv(this.#fd, this.#received, HANDSHAKE_RECEIVE_BYTES, MSG_DONTWAIT);
    if (got === -ERRNO.EAGAIN || got === -ERRNO.EINTR) return;
    if (got <= 0) return this.#end(got === 0 ? "the client closed the connection" : errnoName(-got));
    this.#send(this.#handshake.receive(this.#received.subarray(0, got)));
    const { result } = this.#handshake;
    if (!this.#open || result === undefined) return;
    if (result.kind === "ended") return this.#end(result.reason);
    this.#serve(this.#handshake.remainder.slice(), result.structured);
  }

  #serve(received: Uint8Array, structured: StructuredReplies | undefined): void {
    clearTimeout(this.#deadline);
    this.#pump.remove(this.#fd, this.#token);
    this.#open = false;
    const journal = this.#events.journal();
    const link = new ServedLink(
      this.#fd,
      this.#pump,
      {
        ...this.#options,
        ...(journal === undefined ? {} : { journal }),
        ...(structured === undefined ? {} : { structured }),
      },
      {
        readError: (error) => this.#events.readError(error),
        end: (end) => this.#events.end(`A client's link ended: ${describeEnd(end)}`, end, link.counters),
      },
    );
    this.link = link;
    link.start(received);
  }

  /** Replies of a handshake are small: the connection of a client that does not read them ends. */
  #send(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    const result = this.#queue.sendOwned(bytes);
    if (result < 0 || !this.#queue.isEmpty) this.#end("the client does not read the replies");
  }

  #end(why: string): void {
    if (!this.#open) return;
    this.#open = false;
    clearTimeout(this.#deadline);
    this.#pump.remove(this.#fd, this.#token);
    close(this.#fd);
    this.#events.end(`A client's handshake ended: ${why}`);
  }
}
