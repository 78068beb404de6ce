/**
 * Serves `/metrics` on a unix socket in the run directory and, if configured, on a loopback address.
 *
 * Made by daemon.ts. Each connection gets one answer and has a deadline, and each listener takes a few connections at
 * a time. The unix socket checks credentials as the control socket does. HTTP (metrics-http.ts) is loaded with the
 * first connection. No failure here ends the manager: an address in use is tried again later.
 */
import { chmodSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import type { Log } from "../../log/log.ts";
import { close } from "../../sys/libc/files.ts";
import { effectiveUid } from "../../sys/libc/processes.ts";
import { peerCredentials } from "../../sys/libc/sockets.ts";
import { Acceptor } from "../../sys/sockets/acceptor.ts";
import { listenTcp, listenUnix } from "../../sys/sockets/listen.ts";
import type { LoopbackAddress } from "./metrics-address.ts";

/** For each listener: any local user may fill the loopback address, which must not affect the unix socket. */
const MAX_SCRAPES = 16;
/** From accepting a connection to its end. */
const CONNECTION_MS = 10_000;
const LISTEN_AGAIN_MS = 5000;
/** Scrapes within this time get the same text, so that rendering does not delay failovers. */
const FRESH_MS = 250;

export interface MetricsOptions {
  readonly socketPath: string;
  readonly address?: LoopbackAddress | undefined;
  readonly log: Log;
  /** Makes the text of the answer. */
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

  /** Replaces what is at the path: it belongs to a dead manager, since this one holds the run directory's lock. */
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
      // The manager that this one replaces may hold the port a moment longer. One line is enough.
      if (!this.#complained) log.error(`cannot offer metrics at ${name} yet: ${reasonOf(error)}`);
      this.#complained = true;
      this.#again = setTimeout(() => void this.#listenOnAddress(address), LISTEN_AGAIN_MS).unref();
    }
  }

  #accept(listenFd: number, isAllowed: (fd: number) => boolean): void {
    const sockets = new Set<Socket>();
    const acceptor = new Acceptor(listenFd, {
      connection: (fd) => {
        if (sockets.size < MAX_SCRAPES && isAllowed(fd)) this.#open(fd, sockets);
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
