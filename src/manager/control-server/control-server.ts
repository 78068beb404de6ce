/**
 * The manager's control socket: accepts peers, checks their credentials, and bounds what all of them take together.
 *
 * Made by daemon.ts. The socket is 0600 in a 0700 directory, and the credentials of every peer are checked as well.
 * What one peer may send and take is in control-connection.ts, what a request does in run-request.ts.
 */
import { chmodSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import { faultOf } from "../../control/fault.ts";
import { ErofsNbdError } from "../../errors.ts";
import type { Log } from "../../log/log.ts";
import { close, duplicate } from "../../sys/libc/files.ts";
import { effectiveUid } from "../../sys/libc/processes.ts";
import { peerCredentials } from "../../sys/libc/sockets.ts";
import { Acceptor } from "../../sys/sockets/acceptor.ts";
import { listenUnix } from "../../sys/sockets/listen.ts";
import { ControlConnection } from "./control-connection.ts";
import type { ControlledManager, StepDown } from "./run-request.ts";

export type { ControlledManager, StepDown };

const MAX_PEERS = 256;
/** For the unread answers of all peers together. Beyond it, a peer that has unread ones is cut at its next answer. */
const MAX_TOTAL_BACKLOG_BYTES = 64 << 20;
/** For the unfinished lines of all peers together. */
const MAX_TOTAL_PENDING_BYTES = 8 << 20;

const refuseToStepDown: StepDown = () => {
  throw new ErofsNbdError("ERR_CONTROL", "cannot replace the manager: it is part of another program", {
    hint: "restart that program, or replace its workers alone with --workers-only",
  });
};

export class ControlServer {
  readonly manager: ControlledManager;
  readonly log: Log;
  readonly stepDown: StepDown;
  readonly #path: string;
  readonly #acceptor: Acceptor;
  readonly #connections = new Set<ControlConnection>();

  /** Replaces what is at `path`: it belongs to a dead manager, since the caller holds the run directory's lock. */
  constructor(path: string, manager: ControlledManager, log: Log, stepDown: StepDown = refuseToStepDown) {
    this.manager = manager;
    this.stepDown = stepDown;
    this.log = log;
    this.#path = path;
    rmSync(path, { force: true });
    const mask = process.umask(0o177);
    let listenFd: number;
    try {
      listenFd = listenUnix(path);
    } finally {
      process.umask(mask);
    }
    chmodSync(path, 0o600);
    this.#acceptor = new Acceptor(listenFd, {
      connection: (fd) => this.#open(fd),
      trouble: (message) => log.error(message),
    });
  }

  /** Whether unread answers or unfinished lines of all peers together exceed their limit. */
  get isOverfull(): boolean {
    let backlog = 0;
    let pending = 0;
    for (const connection of this.#connections) {
      backlog += connection.backlogBytes;
      pending += connection.pendingBytes;
    }
    return backlog > MAX_TOTAL_BACKLOG_BYTES || pending > MAX_TOTAL_PENDING_BYTES;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  close(): void {
    this.#acceptor.close();
    rmSync(this.#path, { force: true });
    for (const connection of this.#connections) connection.close();
  }

  #open(fd: number): void {
    const { uid, pid } = peerCredentials(fd);
    if ((uid !== 0 && uid !== effectiveUid()) || this.#connections.size >= MAX_PEERS) {
      this.log.warn(`Refused a control connection of process ${pid}, user ${uid}`);
      close(fd);
      return;
    }
    let readFd: number;
    try {
      readFd = duplicate(fd);
    } catch (error) {
      this.log.error(`Cut a control connection: ${faultOf(error).message}`);
      close(fd);
      return;
    }
    // Node's stream only writes: it would lose the descriptors that come with what is read.
    const socket = new Socket({ fd, readable: false, writable: true });
    const connection = new ControlConnection(socket, readFd, pid, this);
    this.#connections.add(connection);
    connection.ended.then(() => this.#connections.delete(connection)).catch(() => {});
  }
}
