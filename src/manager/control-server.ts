/**
 * The manager's control socket: accepts, checks who it is, answers requests one line at a time.
 *
 * The socket is 0600 in a 0700 directory and every peer's credentials are checked as well. Requests are checked by
 * schema before anything happens; a peer that sends what is not a request is told so and cut off. What peers may take is
 * bounded for each and for all together: connections, requests at a time, unfinished lines, answers that nobody reads.
 * One descriptor may come with a request that takes one; any other is closed, and ends the connection.
 */
import { chmodSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import * as z from "zod";
import { ErofsNbdError } from "../errors.ts";
import type { Log } from "../log.ts";
import { toSourceLines } from "../source-lines.ts";
import { Acceptor } from "../sys/acceptor.ts";
import { DescriptorReader } from "../sys/descriptor-stream.ts";
import { close, duplicate, effectiveUid, peerCredentials } from "../sys/libc.ts";
import { listenUnix } from "../sys/listen.ts";
import { VERSION } from "../version.ts";
import { faultOf } from "./control-fault.ts";
import {
  type DeviceEvent,
  MAX_LINE_BYTES,
  type Method,
  PARAMS,
  type Requests,
  type ServerLine,
} from "./control-protocol.ts";
import { LineSplitter } from "./lines.ts";
import type { Manager } from "./manager.ts";

const MAX_CONNECTIONS = 256;
/** A peer that asks or watches and does not read its answers is cut off at this. */
const MAX_BACKLOG_BYTES = 16 << 20;
/** What all peers together may have unread; beyond it whoever is answered next and has not read is cut off. */
const MAX_TOTAL_BACKLOG_BYTES = 64 << 20;
/** So much every peer may always have unread. */
const OWN_BACKLOG_BYTES = 128 << 10;
/** Of lines that have begun and not ended, of all peers together. */
const MAX_TOTAL_PENDING_BYTES = 8 << 20;
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
    | "settleLoan"
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

const refuseToStepDown: StepDown = () => {
  throw new ErofsNbdError("ERR_CONTROL", "Cannot replace the manager: it is part of another program", {
    hint: "restart that program, or replace its workers alone with --workers-only",
  });
};

const envelope = z.strictObject({
  id: z.number().int().nonnegative(),
  method: z.enum(Object.keys(PARAMS) as [Method, ...Method[]]),
  params: z.unknown(),
});

export class ControlServer {
  readonly manager: ControlledManager;
  readonly log: Log;
  readonly stepDown: StepDown;
  readonly #path: string;
  readonly #acceptor: Acceptor;
  readonly #connections = new Set<ControlConnection>();

  /** Listens at `path`; whatever is there belongs to a dead manager, since the caller holds the run directory's lock. */
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

  /** Whether all peers together hold more than they may, in answers they have not read or lines they have not ended. */
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
    if ((uid !== 0 && uid !== effectiveUid()) || this.#connections.size >= MAX_CONNECTIONS) {
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
    // Node's streams would lose the descriptors that come along: it writes, and we read.
    const socket = new Socket({ fd, readable: false, writable: true });
    const connection = new ControlConnection(socket, readFd, pid, this);
    this.#connections.add(connection);
    connection.ended.then(() => this.#connections.delete(connection)).catch(() => {});
  }
}

/** One peer. Its requests run side by side; a device lent to it for a mount is settled when it goes. */
class ControlConnection {
  readonly ended: Promise<void>;
  readonly #socket: Socket;
  readonly #peerPid: number;
  readonly #server: ControlServer;
  readonly #manager: ControlledManager;
  readonly #log: Log;
  /** Identifiers of devices attached for a mount that has not been reported yet, by index. */
  readonly #loans = new Map<number, string>();
  readonly #reader: DescriptorReader;
  readonly #lines: LineSplitter;
  /** A descriptor that has come, and not yet the rest of the request that it belongs to. */
  #handedFd: number | undefined;
  #hasEnded = false;
  #gone = false;
  #watching = false;
  #running = 0;
  #deadline: NodeJS.Timeout | undefined;

  /** Takes both over: a stream that writes, and a duplicate of its descriptor to read from. */
  constructor(socket: Socket, readFd: number, peerPid: number, server: ControlServer) {
    this.#socket = socket;
    this.#peerPid = peerPid;
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
    void this.ended.then(() => this.#settle());
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
    const message = `Cannot take the descriptors of a control connection: ${why}`;
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
    let request: z.infer<typeof envelope>;
    let id = 0;
    try {
      const value = parseJson(line);
      id = idOf(value);
      request = parse(envelope, value, "request");
    } catch (error) {
      this.#end({ id, error: faultOf(error) });
      return;
    }
    // Where it is not given away, it is closed below.
    let imageFd = request.method === "attach" ? this.#claimHanded() : undefined;
    try {
      const params = parse<unknown>(PARAMS[request.method] as z.ZodType, request.params, request.method);
      const given = imageFd;
      imageFd = undefined;
      this.#send({ id, result: await this.#run(request.method, params, given) });
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
        this.#loans.delete(index);
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
    const { device, notes } = await this.#manager.attach(params, imageFd, this.#peerPid);
    if (params.forMount && device.index !== undefined) {
      this.#loans.set(device.index, device.settings.identifier);
      // The peer may have gone while the device was being attached.
      if (this.#gone) await this.#settle();
    }
    return { device: await this.#manager.describe(device), notes: [...this.#manager.takeNotes(), ...notes] };
  }

  async #settle(): Promise<void> {
    this.#gone = true;
    const loans = [...this.#loans.values()];
    this.#loans.clear();
    for (const identifier of loans) {
      await this.#manager
        .settleLoan(identifier)
        .catch((error: unknown) => this.#log.error(faultOf(error).message));
    }
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

/** The id of what may not be a request, for the answer; 0 where there is none. */
function idOf(value: unknown): number {
  const parsed = z.object({ id: envelope.shape.id }).safeParse(value);
  return parsed.success ? parsed.data.id : 0;
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", "Cannot understand a control request: it is not JSON");
  }
}

/** A value that fits its schema, or one line about the first thing that does not. */
function parse<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue === undefined || issue.path.length === 0 ? "" : `${issue.path.join(".")}: `;
  throw new ErofsNbdError(
    "ERR_BAD_ARGUMENT",
    `Cannot ${what === "request" ? "understand a control request" : what}: ${where}${issue?.message}`,
  );
}
