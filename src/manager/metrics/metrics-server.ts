/**
 * Serves `/metrics` on a unix socket in the run directory and, where it was asked for, on a loopback address.
 *
 * Made by daemon.ts. One answer per connection, a few connections at once of each listener, each with a deadline; the unix
 * socket asks who it is as the control socket does. HTTP itself (metrics-http.ts) is loaded with the first connection. Nothing that goes
 * wrong here keeps a manager from its devices: an address that is in use is tried again later.
 */
import { chmodSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import type { Log } from "../../log/log.ts";
import { close, effectiveUid, peerCredentials } from "../../sys/libc.ts";
import { Acceptor } from "../../sys/sockets/acceptor.ts";
import { listenTcp, listenUnix } from "../../sys/sockets/listen.ts";
import type { LoopbackAddress } from "./metrics-address.ts";

/** Of each listener: any local user may fill the loopback address, and root's socket is to answer all the same. */
const MAX_CONNECTIONS = 16;
/** From accepting to the end, whatever the peer does. */
const CONNECTION_MS = 10_000;
const LISTEN_AGAIN_MS = 5000;
/** Scrapes that come faster than this get the same text: rendering must not keep failovers waiting. */
const FRESH_MS = 250;

export interface MetricsOptions {
  readonly socketPath: string;
  readonly address?: LoopbackAddress | undefined;
  readonly log: Log;
  /** The text to answer with. */
  readonly render: () => string;
}

export class MetricsServer {
  readonly #options: MetricsOptions;
  readonly #acceptors: Acceptor[] = [];
  /** The open connections of each listener. */
  readonly #connections: Array<Set<Socket>> = [];
  #again: NodeJS.Timeout | undefined;
  #complained = false;
  #closed = false;
  #text = "";
  #renderedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: MetricsOptions) {
    this.#options = options;
    this.#listenOnPath();
    if (options.address !== undefined) void this.#listenOnAddress(options.address);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#again);
    for (const acceptor of this.#acceptors) acceptor.close();
    rmSync(this.#options.socketPath, { force: true });
    for (const sockets of this.#connections) for (const socket of sockets) socket.destroy();
  }

  /** Whatever is at the path belongs to a dead manager: its lock is ours. */
  #listenOnPath(): void {
    const { socketPath, log } = this.#options;
    const mask = process.umask(0o177);
    try {
      rmSync(socketPath, { force: true });
      const listenFd = listenUnix(socketPath);
      chmodSync(socketPath, 0o600);
      this.#accept(listenFd, (fd) => this.#isAllowed(fd));
    } catch (error) {
      log.error(`cannot offer metrics at ${socketPath}: ${reasonOf(error)}`);
    } finally {
      process.umask(mask);
    }
  }

  async #listenOnAddress(address: LoopbackAddress): Promise<void> {
    const { log } = this.#options;
    const name = `${address.host}:${address.port}`;
    try {
      const listenFd = await listenTcp(address.host, address.port);
      if (this.#closed) return void close(listenFd);
      this.#accept(listenFd, () => true);
      log.info(`Metrics are offered at ${name}`);
    } catch (error) {
      if (this.#closed) return;
      // A manager that is just being replaced holds its port a moment longer: once is worth a line.
      if (!this.#complained) log.error(`cannot offer metrics at ${name} yet: ${reasonOf(error)}`);
      this.#complained = true;
      this.#again = setTimeout(() => void this.#listenOnAddress(address), LISTEN_AGAIN_MS).unref();
    }
  }

  #accept(listenFd: number, isAllowed: (fd: number) => boolean): void {
    const sockets = new Set<Socket>();
    const acceptor = new Acceptor(listenFd, {
      connection: (fd) => {
        if (sockets.size < MAX_CONNECTIONS && isAllowed(fd)) this.#open(fd, sockets);
        else close(fd);
      },
      trouble: (message) => this.#options.log.error(message),
    });
    this.#acceptors.push(acceptor);
    this.#connections.push(sockets);
  }

  #isAllowed(fd: number): boolean {
    const { uid, pid } = peerCredentials(fd);
    if (uid === 0 || uid === effectiveUid()) return true;
    this.#options.log.warn(`Refused a metrics connection of process ${pid}, user ${uid}`);
    return false;
  }

  #open(fd: number, sockets: Set<Socket>): void {
    const socket = new Socket({ fd, readable: true, writable: true });
    sockets.add(socket);
    socket.on("error", () => {});
    const deadline = setTimeout(() => socket.destroy(), CONNECTION_MS).unref();
    socket.once("close", () => {
      clearTimeout(deadline);
      sockets.delete(socket);
    });
    import("./metrics-http.ts").then(
      ({ answerScrape }) => answerScrape(socket, () => this.#render()),
      (error: unknown) => {
        this.#options.log.error(`cannot answer a scrape: ${reasonOf(error)}`);
        socket.destroy();
      },
    );
  }

  #render(): string {
    const nowMs = performance.now();
    if (nowMs - this.#renderedAtMs > FRESH_MS) {
      this.#text = this.#options.render();
      this.#renderedAtMs = performance.now();
      const milliseconds = Math.round((this.#renderedAtMs - nowMs) * 10) / 10;
      this.#options.log.debug?.("Rendered metrics", { milliseconds, characters: this.#text.length });
    }
    return this.#text;
  }
}

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
