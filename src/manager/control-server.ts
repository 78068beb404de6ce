/**
 * The manager's control socket: accepts, checks who it is, answers requests one line at a time.
 *
 * The socket is 0600 in a 0700 directory and every peer's credentials are checked as well. Requests are checked by
 * schema before anything happens; a peer that sends what is not a request is told so and cut off. What peers may take is
 * bounded for each and for all together: connections, requests at a time, unfinished lines, answers that nobody reads.
 */
import { chmodSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import { z } from "zod";
import { ErofsNbdError } from "../errors.ts";
import type { Log } from "../log.ts";
import { Acceptor } from "../sys/acceptor.ts";
import { close, effectiveUid, peerCredentials } from "../sys/libc.ts";
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
  readonly #manager: ControlledManager;
  readonly #log: Log;
  readonly #path: string;
  readonly #stepDown: StepDown;
  readonly #acceptor: Acceptor;
  readonly #connections = new Set<ControlConnection>();

  /** Listens at `path`; whatever is there belongs to a dead manager, since the caller holds the run directory's lock. */
  constructor(path: string, manager: ControlledManager, log: Log, stepDown: StepDown = refuseToStepDown) {
    this.#manager = manager;
    this.#stepDown = stepDown;
    this.#log = log;
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
      this.#log.warn(`Refused a control connection of process ${pid}, user ${uid}`);
      close(fd);
      return;
    }
    const socket = new Socket({ fd, readable: true, writable: true });
    const connection = new ControlConnection(socket, pid, this, this.#manager, this.#log, this.#stepDown);
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
  readonly #stepDown: StepDown;
  readonly #lines: LineSplitter;
  #gone = false;
  #watching = false;
  #running = 0;
  #deadline: NodeJS.Timeout | undefined;

  constructor(
    socket: Socket,
    peerPid: number,
    server: ControlServer,
    manager: ControlledManager,
    log: Log,
    stepDown: StepDown,
  ) {
    this.#socket = socket;
    this.#peerPid = peerPid;
    this.#server = server;
    this.#stepDown = stepDown;
    this.#manager = manager;
    this.#log = log;
    socket.on("error", () => {});
    this.ended = new Promise((resolve) => socket.once("close", () => resolve()));
    void this.ended.then(() => {
      clearTimeout(this.#deadline);
      return this.#settle();
    });
    this.#lines = new LineSplitter(
      { line: (line) => void this.#hear(line), tooLong: () => socket.destroy() },
      MAX_LINE_BYTES,
    );
    socket.on("data", (chunk: Buffer) => this.#take(chunk));
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

  #take(chunk: Buffer): void {
    this.#lines.push(chunk);
    if (this.#lines.pendingBytes === 0) return;
    // The rest of the line is waited for where it is we who do not read.
    if (!this.#socket.isPaused()) this.#awaitLine();
    if (this.#server.isOverfull) this.#cut("the lines that peers have begun fill too much memory");
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
    this.#lines.stop();
    this.#socket.destroy();
  }

  /** Runs a line's request; a peer that asks faster than it is answered has to wait. */
  async #hear(line: string): Promise<void> {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
    this.#running += 1;
    if (this.#running >= MAX_RUNNING) this.#socket.pause();
    try {
      await this.#obey(line);
    } finally {
      this.#running -= 1;
      if (this.#running < MAX_RUNNING && this.#socket.isPaused()) {
        this.#socket.resume();
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
      this.#lines.stop();
      this.#send({ id, error: faultOf(error) });
      this.#socket.destroySoon();
      return;
    }
    try {
      const params = parse<unknown>(PARAMS[request.method] as z.ZodType, request.params, request.method);
      this.#send({ id, result: await this.#run(request.method, params) });
    } catch (error) {
      const fault = faultOf(error);
      if (fault.code === "ERR_INTERNAL")
        this.#log.error("A request failed by a bug", { stack: error instanceof Error ? error.stack : error });
      this.#send({ id, error: fault });
    }
  }

  async #run(method: Method, params: unknown): Promise<Requests[Method]["result"]> {
    const manager = this.#manager;
    switch (method) {
      case "hello":
        return { version: VERSION, pid: process.pid };
      case "attach":
        return this.#attach(params as Requests["attach"]["params"]);
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
        return this.#stepDown();
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

  async #attach(params: Requests["attach"]["params"]): Promise<Requests["attach"]["result"]> {
    const { device, notes } = await this.#manager.attach(params, this.#peerPid);
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
