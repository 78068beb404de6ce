/**
 * One peer of the control socket: its requests, one line each, and what it may take of the manager.
 *
 * Requests are checked by schema before anything happens; a peer that sends what is not a request is told so and
 * cut off. Bounded are its requests at a time, its unfinished lines, the time that they take, and answers that it
 * does not read. One descriptor may come with a request that takes one; any other is closed, and ends the
 * connection.
 */
import type { Socket } from "node:net";
import { faultOf } from "../../control/fault.ts";
import { LineSplitter } from "../../control/line-splitter.ts";
import {
  type DeviceEvent,
  MAX_LINE_BYTES,
  type Method,
  type Requests,
  type ServerLine,
} from "../../control/protocol.ts";
import { ErofsNbdError } from "../../errors.ts";
import type { Log } from "../../log/log.ts";
import { toSourceLines } from "../../log/source-lines.ts";
import { close } from "../../sys/libc.ts";
import { DescriptorReader } from "../../sys/sockets/descriptor-stream.ts";
import { VERSION } from "../../version.ts";
import type { Borrower } from "../loans.ts";
import type { Manager } from "../manager.ts";
import { readParams, readRequest } from "./control-request.ts";

/** A peer that asks or watches and does not read its answers is cut off at this. */
const MAX_BACKLOG_BYTES = 16 << 20;
/** So much every peer may always have unread. */
const OWN_BACKLOG_BYTES = 128 << 10;
/** A peer is not read from while so many of its requests run. */
const MAX_RUNNING = 64;
/** For a peer's first request, and for the rest of one that has begun. Between requests it may say nothing for ever. */
const LINE_DEADLINE_MS = 10_000;

/** The part of a manager that the control socket reaches. */
export interface ControlledManager
  extends Pick<
    Manager,
    | "attach"
    | "mounted"
    | "borrowerGone"
    | "detach"
    | "status"
    | "describe"
    | "takeNotes"
    | "vitals"
    | "cutLinks"
    | "renewWorkers"
  > {
  on(event: "event", listener: (event: DeviceEvent) => void): unknown;
  off(event: "event", listener: (event: DeviceEvent) => void): unknown;
}

/** Ends the manager's process so that another one can go on; see daemon.ts. */
export type StepDown = () => Promise<{ readonly auto: boolean }>;

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
  /** What the manager knows this connection by when it lends devices to it. */
  readonly #borrower: Borrower;
  readonly #server: ConnectionOwner;
  readonly #manager: ControlledManager;
  readonly #log: Log;
  readonly #reader: DescriptorReader;
  readonly #lines: LineSplitter;
  /** A descriptor that has come, and not yet the rest of the request that it belongs to. */
  #handedFd: number | undefined;
  #hasEnded = false;
  #watching = false;
  #running = 0;
  #deadline: NodeJS.Timeout | undefined;

  /** Takes both over: a stream that writes, and a duplicate of its descriptor to read from. */
  constructor(socket: Socket, readFd: number, peerPid: number, server: ConnectionOwner) {
    this.#socket = socket;
    this.#borrower = { pid: peerPid };
    this.#server = server;
    this.#manager = server.manager;
    this.#log = server.log;
    socket.on("error", () => {});
    this.#lines = new LineSplitter(
      { line: (line) => void this.#hear(line), tooLong: () => socket.destroy() },
      MAX_LINE_BYTES,
    );
    this.#reader = new DescriptorReader(readFd, {
      data: (chunk, fds, wasCut) => this.#receive(chunk, fds, wasCut),
      // What was asked together with the end and needs nothing to be waited for is answered first.
      end: () => setImmediate(() => socket.destroySoon()),
    });
    this.ended = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.once("close", () => {
      clearTimeout(this.#deadline);
      this.#reader.close();
      this.#dropHanded();
    });
    void this.ended.then(() => this.#manager.borrowerGone(this.#borrower));
    this.#awaitLine();
  }

  /** Answers and events that the peer has not read. */
  get backlogBytes(): number {
    return this.#socket.writableLength;
  }

  get pendingBytes(): number {
    return this.#lines.pendingBytes;
  }

  close(): void {
    this.#socket.destroy();
  }

  /** A descriptor comes with the first byte of its request, and perhaps with the end of the one before. */
  #receive(chunk: Uint8Array, fds: readonly number[], wasCut: boolean): void {
    const [fd, ...surplus] = fds;
    const isTooMuch = surplus.length > 0 || wasCut || (fd !== undefined && this.#handedFd !== undefined);
    if (isTooMuch || this.#hasEnded) for (const one of fds) close(one);
    else if (fd !== undefined) this.#handedFd = fd;
    if (this.#hasEnded) return;
    if (isTooMuch) return this.#refuseDescriptors("it sent more than one at a time, or none is free here");
    this.#lines.push(chunk);
    if (this.#lines.pendingBytes === 0) {
      if (this.#handedFd !== undefined) this.#refuseDescriptors("it sent one that no request takes");
      return;
    }
    // The rest of the line is waited for where it is we who do not read.
    if (!this.#reader.isPaused) this.#awaitLine();
    if (this.#server.isOverfull) this.#cut("the lines that peers have begun fill too much memory");
  }

  /** Said once, and cut off. */
  #refuseDescriptors(why: string): void {
    const message = `cannot take the descriptors of a control connection: ${why}`;
    this.#log.warn(message);
    this.#end({ id: 0, error: faultOf(new ErofsNbdError("ERR_BAD_ARGUMENT", message)) });
  }

  /** The last that is heard from this peer, and what it is told. */
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

  /** From its first byte on; more bytes of the same line change nothing. */
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

  /** Runs a line's request; a peer that asks faster than it is answered has to wait. */
  async #hear(line: string): Promise<void> {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
    this.#running += 1;
    if (this.#running >= MAX_RUNNING) this.#reader.pause();
    try {
      await this.#obey(line);
    } finally {
      this.#running -= 1;
      if (this.#running < MAX_RUNNING && this.#reader.isPaused && !this.#hasEnded) {
        this.#reader.resume();
        if (this.#lines.pendingBytes > 0) this.#awaitLine();
      }
    }
  }

  async #obey(line: string): Promise<void> {
    const read = readRequest(line);
    if ("error" in read) return this.#end(read);
    const { id, method, params: raw } = read;
    // Where it is not given away, it is closed below.
    let imageFd = method === "attach" ? this.#claimHanded() : undefined;
    try {
      const params = readParams(method, raw);
      const given = imageFd;
      imageFd = undefined;
      this.#send({ id, result: await this.#run(method, params, given) });
    } catch (error) {
      const fault = faultOf(error);
      if (fault.code === "ERR_INTERNAL")
        this.#log.error("A request failed by a bug", {
          stack: error instanceof Error ? toSourceLines(error.stack ?? error.message) : error,
        });
      this.#send({ id, error: fault });
    } finally {
      if (imageFd !== undefined) close(imageFd);
    }
  }

  /** The descriptor that came with the request which is heard just now; belongs to the caller. */
  #claimHanded(): number | undefined {
    const fd = this.#handedFd;
    this.#handedFd = undefined;
    return fd;
  }

  /** Takes `imageFd` over. */
  async #run(
    method: Method,
    params: unknown,
    imageFd: number | undefined,
  ): Promise<Requests[Method]["result"]> {
    const manager = this.#manager;
    switch (method) {
      case "hello":
        return { version: VERSION, pid: process.pid, takesDescriptors: true };
      case "attach":
        return this.#attach(params as Requests["attach"]["params"], imageFd);
      case "mounted": {
        const { index } = params as Requests["mounted"]["params"];
        await manager.mounted(index);
        return {};
      }
      case "detach": {
        const { targets, all, force } = params as Requests["detach"]["params"];
        return { results: await manager.detach(targets, all, force) };
      }
      case "status": {
        const { target } = params as Requests["status"]["params"];
        return {
          devices: await manager.status(target),
          notes: manager.takeNotes(),
          manager: manager.vitals(),
        };
      }
      case "renew":
        return manager.renewWorkers();
      case "stepDown":
        return this.#server.stepDown();
      case "cutLinks": {
        const { index } = params as Requests["cutLinks"]["params"];
        manager.cutLinks(index);
        return {};
      }
      case "watch": {
        if (this.#watching) return {};
        this.#watching = true;
        const tell = (event: DeviceEvent): void => this.#send({ event });
        manager.on("event", tell);
        void this.ended.then(() => manager.off("event", tell));
        return {};
      }
    }
  }

  async #attach(
    params: Requests["attach"]["params"],
    imageFd: number | undefined,
  ): Promise<Requests["attach"]["result"]> {
    const { device, notes } = await this.#manager.attach(params, imageFd, this.#borrower);
    return { device: await this.#manager.describe(device), notes: [...this.#manager.takeNotes(), ...notes] };
  }

  #send(line: ServerLine): void {
    if (!this.#socket.writable) return;
    this.#socket.write(`${JSON.stringify(line)}\n`);
    const { writableLength } = this.#socket;
    if (writableLength > MAX_BACKLOG_BYTES) this.#cut("it does not read what it is told");
    // Only one that is behind can help: the others have read everything.
    else if (writableLength > OWN_BACKLOG_BYTES && this.#server.isOverfull)
      this.#cut("what peers have not read fills too much memory");
  }
}
