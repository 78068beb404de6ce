/**
 * The client end of the control socket: connects to the running manager and sends requests. start-manager.ts starts
 * one.
 *
 * Used by commands, library and chaos. Answers are matched by id. A request fails if the manager goes away before it
 * has answered. Nothing is retried here, because only the caller knows whether that is safe.
 */
import { createConnection, type Socket } from "node:net";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../errors.ts";
import { ControlError } from "./fault.ts";
import { isolateListener } from "./isolate-listener.ts";
import { LineSplitter } from "./line-splitter.ts";
import type { DeviceEvent, Method, Requests, ServerLine } from "./protocol.ts";
import { checkSocketPath, type RunDir } from "./run-dir.ts";
import { refuseForeignManager } from "./run-dir-trust.ts";

/** ECONNRESET: the listener was closed before it accepted the connection (net/unix/af_unix.c, unix_release_sock). */
const NOT_LISTENING: ReadonlySet<string> = new Set(["ENOENT", "ENOTDIR", "ECONNREFUSED", "ECONNRESET"]);

/** Interval of attempts to send while the manager does not read. */
const RETRY_MS = 5;

export { ControlError };

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

export class ControlClient {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiting>();
  #onEvent: ((event: DeviceEvent) => void) | undefined;
  #onEnd: (() => void) | undefined;
  #nextId = 1;
  #gone = false;
  /** The manager's answer to hello. */
  #manager: Requests["hello"]["result"] | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    const lines = new LineSplitter({ line: (line) => this.#hear(JSON.parse(line) as ServerLine) });
    socket.on("data", (chunk: Buffer) => lines.push(chunk));
    socket.on("error", () => {});
    socket.once("close", () => this.#ended());
  }

  /**
   * Connects to the running manager; undefined if there is none.
   * @throws ErofsNbdError ERR_PERMISSION; ERR_RUN_DIR if the run directory cannot be trusted; ERR_CONTROL
   */
  static async connect(runDir: RunDir): Promise<ControlClient | undefined> {
    checkSocketPath(runDir);
    refuseForeignManager(runDir);
    const socket = createConnection(runDir.controlSocket);
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("connect", resolve);
        socket.once("error", reject);
      });
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== undefined && NOT_LISTENING.has(code)) return undefined;
      const denied = code === "EACCES" || code === "EPERM";
      throw new ErofsNbdError(
        denied ? "ERR_PERMISSION" : "ERR_CONTROL",
        `cannot talk to the manager at ${runDir.controlSocket}: ${denied ? "permission denied" : code}`,
        { hint: denied ? "run as root" : undefined, cause: error },
      );
    }
    return new ControlClient(socket);
  }

  /**
   * Sends a request and returns the answer. `imageFd` is sent with it, and stays the caller's.
   * @throws ControlError the manager's error; ErofsNbdError ERR_CONTROL if it goes away, or accepts no descriptors
   */
  async request<M extends Method>(
    method: M,
    params: Requests[M]["params"],
    imageFd?: number,
  ): Promise<Requests[M]["result"]> {
    const result = await (imageFd === undefined
      ? this.#ask(method, params)
      : this.#askWithDescriptor(method, params, imageFd));
    if (method === "hello") this.#manager = result as Requests["hello"]["result"];
    return result;
  }

  /** A former manager would ignore the descriptor and open the path itself, which may be another file for it. */
  async #askWithDescriptor<M extends Method>(
    method: M,
    params: Requests[M]["params"],
    imageFd: number,
  ): Promise<Requests[M]["result"]> {
    const { version, takesDescriptors, protocol = 1 } = this.#manager ?? (await this.request("hello", {}));
    if (takesDescriptors !== true) {
      throw new ErofsNbdError(
        "ERR_CONTROL",
        `cannot pass an image to the manager: it is of version ${version}, which opens images itself`,
        { hint: "replace it by this version: erofs-nbd upgrade" },
      );
    }
    if ("part" in params && params.part !== undefined && protocol < 3) {
      throw new ErofsNbdError(
        "ERR_CONTROL",
        `cannot attach a part of a file system: the manager is of version ${version}, which knows none`,
        { hint: "replace it by this version: erofs-nbd upgrade" },
      );
    }
    const { sendWithDescriptor } = await import("../sys/sockets/descriptor-stream.ts");
    return this.#ask(method, params, async (line) => {
      let sent = 0;
      while (sent === 0) {
        // Data sent past the stream must not overtake data that the stream has buffered.
        while (this.#socket.writableLength > 0 && !this.#gone) await nextTurn();
        sent = sendWithDescriptor(descriptorOf(this.#socket), line, imageFd);
        if (sent === 0) await sleep(RETRY_MS);
      }
      if (sent < line.length) this.#socket.write(line.subarray(sent));
    });
  }

  #ask<M extends Method>(
    method: M,
    params: Requests[M]["params"],
    send: (line: Uint8Array) => Promise<void> = async (line) => void this.#socket.write(line),
  ): Promise<Requests[M]["result"]> {
    const id = this.#nextId++;
    return new Promise<Requests[M]["result"]>((resolve, reject) => {
      if (this.#gone) return reject(managerGone());
      this.#waiting.set(id, { resolve: (result) => resolve(result as Requests[M]["result"]), reject });
      send(Buffer.from(`${JSON.stringify({ id, method, params }, this.#leftOut(method))}\n`)).catch(
        (error: unknown) => {
          this.#waiting.delete(id);
          const isGone = (error as { errnoName?: unknown }).errnoName === "EPIPE";
          reject(isGone ? managerGone() : (error as Error));
        },
      );
    });
  }

  /** Former managers reject unknown fields, and know targets by path only. */
  #leftOut(method: Method): ((key: string, value: unknown) => unknown) | undefined {
    const isFormer = this.#manager !== undefined && this.#manager.takesDescriptors !== true;
    return isFormer && (method === "detach" || method === "status")
      ? (key, value) => (key === "seen" ? undefined : value)
      : undefined;
  }

  /** Subscribes to events. `onEnd` is called when the manager goes away. */
  async watch(onEvent: (event: DeviceEvent) => void, onEnd: () => void): Promise<void> {
    this.#onEvent = onEvent;
    this.#onEnd = onEnd;
    await this.request("watch", {});
  }

  close(): void {
    this.#onEnd = undefined;
    this.#socket.destroy();
  }

  #hear(line: ServerLine): void {
    // A listener that throws must not keep further lines of the same chunk from being processed.
    if ("event" in line) return isolateListener(() => this.#onEvent?.(line.event));
    const waiting = this.#waiting.get(line.id);
    this.#waiting.delete(line.id);
    if ("error" in line) waiting?.reject(new ControlError(line.error));
    else waiting?.resolve(line.result);
  }

  #ended(): void {
    this.#gone = true;
    for (const waiting of this.#waiting.values()) waiting.reject(managerGone());
    this.#waiting.clear();
    this.#onEnd?.();
  }
}

/** The descriptor of a socket, for which Node.js has no public name. The caller orders its writes with the stream's. */
function descriptorOf(socket: Socket): number {
  const { fd } = (socket as unknown as { readonly _handle: { readonly fd?: number } | null })._handle ?? {};
  if (fd === undefined || fd < 0) throw managerGone();
  return fd;
}

function managerGone(): ErofsNbdError {
  return new ErofsNbdError("ERR_CONTROL", "cannot finish the request: the manager went away", {
    hint: "try again: the next manager adopts the devices",
  });
}
