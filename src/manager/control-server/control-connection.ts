/**
 * One peer of the control socket: receives its requests, one line each, and bounds what it may take of the manager.
 *
 * Made by control-server.ts. Requests are checked by schema before anything is done; a peer that sends an invalid one
 * gets an error and is cut off. Bounded are the number of requests that run at a time, the length and the time of
 * unfinished lines, and the answers that are not read. One descriptor may come with a request that takes one; any
 * other is closed, and ends the connection.
 */
import type { Socket } from "node:net";
import { faultOf } from "../../control/fault.ts";
import { LineSplitter } from "../../control/line-splitter.ts";
import { type DeviceEvent, MAX_LINE_BYTES, type ServerLine } from "../../control/protocol.ts";
import { ErofsNbdError } from "../../errors.ts";
import type { Log } from "../../log/log.ts";
import { toSourceLines } from "../../log/source-lines.ts";
import { close } from "../../sys/libc/files.ts";
import { DescriptorReader } from "../../sys/sockets/descriptor-stream.ts";
import { readParams, readRequest } from "./control-request.ts";
import { type ControlledManager, type RequestScope, runRequest, type StepDown } from "./run-request.ts";

/** A peer that has not read this much of its answers and events is cut off. */
const MAX_BACKLOG_BYTES = 16 << 20;
/** Each peer may have this much unread, however much others have. */
const OWN_BACKLOG_BYTES = 128 << 10;
/** A peer is not read from while this many of its requests run. */
const MAX_RUNNING = 64;
/** For the first request of a peer, and for the rest of a line that has begun. Between requests a peer may be idle. */
const LINE_DEADLINE_MS = 10_000;

/** What a connection needs of the server that it belongs to. */
export interface ConnectionOwner {
  readonly manager: ControlledManager;
  readonly log: Log;
  readonly stepDown: StepDown;
  /** Whether all peers together hold more than they may. */
  readonly isOverfull: boolean;
}

/** One peer. Its requests run side by side. */
export class ControlConnection {
  readonly ended: Promise<void>;
  readonly #socket: Socket;
  readonly #server: ConnectionOwner;
  readonly #log: Log;
  readonly #scope: RequestScope;
  readonly #reader: DescriptorReader;
  readonly #lines: LineSplitter;
  /** A descriptor whose request has not been received completely. */
  #handedFd: number | undefined;
  #hasEnded = false;
  #isWatching = false;
  #running = 0;
  #deadline: NodeJS.Timeout | undefined;

  /** Takes over both the stream to write to, and a duplicate of its descriptor to read from. */
  constructor(socket: Socket, readFd: number, peerPid: number, server: ConnectionOwner) {
    const { manager, stepDown, log } = server;
    this.#socket = socket;
    this.#server = server;
    this.#log = log;
    this.#scope = { manager, stepDown, borrower: { pid: peerPid }, watch: () => this.#watch() };
    socket.on("error", () => {});
    this.#lines = new LineSplitter(
      { line: (line) => void this.#hear(line), tooLong: () => socket.destroy() },
      MAX_LINE_BYTES,
    );
    this.#reader = new DescriptorReader(readFd, {
      data: (chunk, fds, wasCut) => this.#receive(chunk, fds, wasCut),
      // Requests that came together with the end are answered first, unless they have to wait for something.
      end: () => setImmediate(() => socket.destroySoon()),
    });
    this.ended = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.once("close", () => {
      clearTimeout(this.#deadline);
      this.#reader.close();
      this.#dropHanded();
    });
    void this.ended.then(() => manager.borrowerGone(this.#scope.borrower));
    this.#awaitLine();
  }

  /** Answers and events that the peer has not read. */
  get backlogBytes(): number {
    return this.#socket.writableLength;
  }

  /** The length of an unfinished line. */
  get pendingBytes(): number {
    return this.#lines.pendingBytes;
  }

  close(): void {
    this.#socket.destroy();
  }

  /** A descriptor comes with the first byte of its request, and perhaps with the end of the request before. */
  #receive(chunk: Uint8Array, fds: readonly number[], wasCut: boolean): void {
    const [fd, ...surplus] = fds;
    const isTooMuch = surplus.length > 0 || wasCut || (fd !== undefined && this.#handedFd !== undefined);
    if (isTooMuch || this.#hasEnded) for (const one of fds) close(one);
    else if (fd !== undefined) this.#handedFd = fd;
    if (this.#hasEnded) return;
    if (isTooMuch)
      return this.#refuseDescriptors("more than one came at a time, or none is free in this process");
    this.#lines.push(chunk);
    if (this.#lines.pendingBytes === 0) {
      if (this.#handedFd !== undefined) this.#refuseDescriptors("one came with no request that takes it");
      return;
    }
    // A paused reader is this side's doing: the peer is not late then.
    if (!this.#reader.isPaused) this.#awaitLine();
    if (this.#server.isOverfull) this.#cut("unfinished lines of all peers fill too much memory");
  }

  /** Answers with an error and ends the connection. */
  #refuseDescriptors(why: string): void {
    const message = `cannot take the descriptors of a control connection: ${why}`;
    this.#log.warn(message);
    this.#end({ id: 0, error: faultOf(new ErofsNbdError("ERR_BAD_ARGUMENT", message)) });
  }

  /** Reads nothing more from this peer and ends the connection with this line. */
  #end(last: ServerLine): void {
    this.#hasEnded = true;
    this.#lines.stop();
    this.#dropHanded();
    this.#send(last);
    this.#socket.destroySoon();
  }

  #dropHanded(): void {
    if (this.#handedFd !== undefined) close(this.#handedFd);
    this.#handedFd = undefined;
  }

  /** The time counts from the first byte of a line; further bytes of the same line do not extend it. */
  #awaitLine(): void {
    this.#deadline ??= setTimeout(
      () => this.#cut("a request did not come in time"),
      LINE_DEADLINE_MS,
    ).unref();
  }

  #cut(why: string): void {
    this.#log.warn(`Cut a control connection: ${why}`);
    this.#hasEnded = true;
    this.#lines.stop();
    this.#socket.destroy();
  }

  /** Runs the request of a line. Reading pauses while too many of them run. */
  async #hear(line: string): Promise<void> {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
    this.#running += 1;
    if (this.#running >= MAX_RUNNING) this.#reader.pause();
    try {
      await this.#answer(line);
    } finally {
      this.#running -= 1;
      if (this.#running < MAX_RUNNING && this.#reader.isPaused && !this.#hasEnded) {
        this.#reader.resume();
        if (this.#lines.pendingBytes > 0) this.#awaitLine();
      }
    }
  }

  async #answer(line: string): Promise<void> {
    const read = readRequest(line);
    if ("error" in read) return this.#end(read);
    const { id, method, params: raw } = read;
    // Closed below unless it is given away.
    let imageFd = method === "attach" ? this.#claimHanded() : undefined;
    try {
      const params = readParams(method, raw);
      const given = imageFd;
      imageFd = undefined;
      this.#send({ id, result: await runRequest(method, params, given, this.#scope) });
    } catch (error) {
      const fault = faultOf(error);
      if (fault.code === "ERR_INTERNAL")
        this.#log.error("A request failed: internal error (a bug in erofs-nbd)", {
          stack: error instanceof Error ? toSourceLines(error.stack ?? error.message) : error,
        });
      this.#send({ id, error: fault });
    } finally {
      if (imageFd !== undefined) close(imageFd);
    }
  }

  /** The descriptor that came with the line being read; belongs to the caller. */
  #claimHanded(): number | undefined {
    const fd = this.#handedFd;
    this.#handedFd = undefined;
    return fd;
  }

  #watch(): void {
    if (this.#isWatching) return;
    this.#isWatching = true;
    const { manager } = this.#scope;
    const tell = (event: DeviceEvent): void => this.#send({ event });
    manager.on("event", tell);
    void this.ended.then(() => manager.off("event", tell));
  }

  #send(line: ServerLine): void {
    if (!this.#socket.writable) return;
    this.#socket.write(`${JSON.stringify(line)}\n`);
    const { writableLength } = this.#socket;
    if (writableLength > MAX_BACKLOG_BYTES) this.#cut("it does not read its answers");
    // Cutting a peer that has read everything would free nothing.
    else if (writableLength > OWN_BACKLOG_BYTES && this.#server.isOverfull)
      this.#cut("unread answers of all peers fill too much memory");
  }
}
