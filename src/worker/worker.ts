/**
 * A worker: serves any number of links in one process, given to it over the control channel.
 *
 * It decides nothing: descriptors arrive with each link, ends are reported. When the control channel ends (its manager
 * is gone) it goes on serving, and exits when no link is left. The next manager connects to the worker's own socket,
 * and gets a description of every link with duplicates of its descriptors.
 */
import { Pump } from "../serving/pump.ts";
import { warmUp, warmUpLater } from "../serving/warm-up.ts";
import { EPOLLIN } from "../sys/epoll.ts";
import { close } from "../sys/libc/files.ts";
import { peerCredentials } from "../sys/libc/sockets.ts";
import { Acceptor } from "../sys/sockets/acceptor.ts";
import { Channel } from "../sys/sockets/channel.ts";
import type { FromWorker, ToWorker } from "../worker-protocol/messages.ts";
import { inspectSource } from "./inspect-source.ts";
import { LinkTable } from "./link-table.ts";

/** What a worker is started with. */
export interface WorkerStart {
  /** The control channel. */
  readonly controlFd: number;
  /** A listening socket for later managers. */
  readonly reunionFd: number;
  /** The user that later managers must run as, unless it is root. */
  readonly managerUid: number;
  /** An attach waits for this worker: it reports ready first, and warms up a moment later. */
  readonly isAwaited?: boolean;
}

export class Worker {
  readonly #pump = new Pump();
  /** Made before the first message: a manager may make a worker that is ready the owner of a lease. */
  readonly #links = new LinkTable(this.#pump, {
    tell: (message) => this.#tell(message),
    removed: () => {
      if (this.#stopping) this.#stopWhenIdle();
    },
  });
  readonly #leave: () => void;
  readonly #managerUid: number;
  #channel: Channel<ToWorker, FromWorker>;
  #stopping = false;

  /** Takes over the descriptors. Calls `leave` when there is nothing left to do. */
  constructor({ controlFd, reunionFd, managerUid, isAwaited = false }: WorkerStart, leave: () => void) {
    this.#leave = leave;
    this.#managerUid = managerUid;
    this.#channel = this.#open(controlFd);
    const acceptor = new Acceptor(reunionFd, {
      connection: (fd) => this.#acceptManager(fd),
      trouble: (message) => process.stderr.write(`${JSON.stringify({ level: "error", message })}\n`),
    });
    acceptor.unref();
    this.#pump.yieldTo(reunionFd, EPOLLIN);
    if (isAwaited) warmUpLater(this.#pump);
    else warmUp(this.#pump);
    this.#tell({ type: "ready", leases: true, offers: true });
  }

  #open(fd: number): Channel<ToWorker, FromWorker> {
    const channel: Channel<ToWorker, FromWorker> = new Channel(fd, {
      message: (message, fds) => this.#handle(message, fds),
      end: () => {
        if (channel === this.#channel) this.#stopWhenIdle();
      },
    });
    this.#pump.yieldTo(fd, EPOLLIN);
    return channel;
  }

  /** Replaces the control channel. Only a process with access to the run directory can connect. */
  #acceptManager(fd: number): void {
    const { uid } = peerCredentials(fd);
    if (uid !== 0 && uid !== this.#managerUid) {
      close(fd);
      return;
    }
    this.#channel.close();
    this.#stopping = false;
    this.#links.startOver();
    this.#channel = this.#open(fd);
    this.#tell({ type: "reunion", pid: process.pid, links: this.#links.size });
    this.#links.forEachHeld((message, fds) => {
      this.#channel.send(message, fds).catch(() => {});
    });
    this.#tell({ type: "ready", leases: true, offers: true });
  }

  #handle(message: ToWorker, fds: readonly number[]): void {
    if (message.type === "serve") return this.#links.serve(message, fds);
    if (message.type === "lease" && fds.length === 1)
      return this.#links.useLease(message.link, fds[0] as number);
    for (const fd of fds) close(fd);
    if (message.type === "close") this.#links.close(message.link);
    else if (message.type === "release") this.#links.release(message.link);
    else if (message.type === "confirm") this.#links.confirm(message.link);
    else if (message.type === "ping") this.#tell({ type: "pong" });
    else if (message.type === "inspect") void inspectSource(message, (reply) => this.#tell(reply));
    else if (message.type === "report") this.#links.reportLeases();
    else if (message.type === "stop") this.#stopWhenIdle();
  }

  #stopWhenIdle(): void {
    this.#stopping = true;
    if (this.#links.isEmpty) setImmediate(this.#leave);
  }

  /** Without a manager only read errors are reported, on stderr. */
  #tell(message: FromWorker): void {
    if (!this.#channel.isOpen) {
      if (message.type === "read-error")
        process.stderr.write(`${JSON.stringify({ level: "error", ...message })}\n`);
      return;
    }
    this.#channel.send(message).catch(() => {});
  }
}
