/**
 * The command line's end of the control socket: find the manager, start it if none runs, ask it things.
 *
 * Answers are matched by id. A manager that goes away in the middle of a request makes that request fail; nothing
 * here retries, because the caller knows what was asked and whether asking twice is safe.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, statSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { ErofsNbdError, type ErrorCode, type ExitCode } from "../errors.ts";
import type { ControlFault, DeviceEvent, Method, Requests, ServerLine } from "./control-protocol.ts";
import { prepareRunDir, type RunDir } from "./run-dir.ts";

const CLI_PATH = fileURLToPath(new URL("../cli/main.js", import.meta.url));
const START_DEADLINE_MS = 20_000;
const POLL_MS = 20;

/** A fault that the manager reported; carries the exit code it decided on. */
export class ControlError extends Error {
  override readonly name = "ControlError";
  readonly code: ErrorCode | string;
  readonly hint: string | undefined;
  readonly exitCode: ExitCode;

  constructor(fault: ControlFault) {
    super(fault.message);
    this.code = fault.code;
    this.hint = fault.hint;
    this.exitCode = fault.exitCode;
  }
}

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

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface(socket).on("line", (line) => this.#hear(JSON.parse(line) as ServerLine));
    socket.on("error", () => {});
    socket.once("close", () => this.#ended());
  }

  /** A connection to the manager that runs, or undefined when none does. @throws ErofsNbdError ERR_PERMISSION */
  static async connect(runDir: RunDir): Promise<ControlClient | undefined> {
    const socket = createConnection(runDir.controlSocket);
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("connect", resolve);
        socket.once("error", reject);
      });
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === "ENOENT" || code === "ECONNREFUSED" || code === "ENOTDIR") return undefined;
      const why = code === "EACCES" ? "permission denied" : String(code);
      throw new ErofsNbdError(
        "ERR_PERMISSION",
        `Cannot talk to the manager at ${runDir.controlSocket}: ${why}`,
        {
          hint: "run as root",
          cause: error,
        },
      );
    }
    return new ControlClient(socket);
  }

  /** Connects, and starts a manager first where none runs. @throws ErofsNbdError with the manager's own last words */
  static async connectOrStart(runDir: RunDir): Promise<ControlClient> {
    const running = await ControlClient.connect(runDir);
    if (running !== undefined) return running;
    prepareRunDir(runDir);
    const logFd = openSync(runDir.logFile, "a", 0o600);
    const logStart = statSync(runDir.logFile).size;
    const argv = [CLI_PATH, "manager", "--auto", "--run-dir", runDir.path];
    const child = spawn(process.execPath, argv, {
      detached: true,
      cwd: "/",
      stdio: ["ignore", logFd, logFd],
    });
    closeSync(logFd);
    let ended = false;
    child.once("exit", () => {
      ended = true;
    });
    child.unref();
    const deadline = performance.now() + START_DEADLINE_MS;
    while (performance.now() < deadline) {
      const client = await ControlClient.connect(runDir);
      if (client !== undefined) return client;
      // The one we started may have lost the race against another manager: then that one answers soon.
      if (ended && (await lastWords(runDir, logStart)) !== undefined) break;
      await sleep(POLL_MS);
    }
    const words = await lastWords(runDir, logStart);
    throw new ErofsNbdError(
      "ERR_CONTROL",
      `Cannot start the manager: ${words ?? "it did not answer in time"}`,
      {
        hint: `its log is ${runDir.logFile}`,
      },
    );
  }

  request<M extends Method>(method: M, params: Requests[M]["params"]): Promise<Requests[M]["result"]> {
    const id = this.#nextId++;
    return new Promise<Requests[M]["result"]>((resolve, reject) => {
      this.#waiting.set(id, { resolve: (result) => resolve(result as Requests[M]["result"]), reject });
      this.#socket.write(`${JSON.stringify({ id, method, params })}\n`);
    });
  }

  /** Events from now on. `onEnd` is called when the manager goes away. */
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
    if ("event" in line) return this.#onEvent?.(line.event);
    const waiting = this.#waiting.get(line.id);
    this.#waiting.delete(line.id);
    if ("error" in line) waiting?.reject(new ControlError(line.error));
    else waiting?.resolve(line.result);
  }

  #ended(): void {
    for (const waiting of this.#waiting.values()) {
      waiting.reject(
        new ErofsNbdError("ERR_CONTROL", "Cannot finish the request: the manager went away", {
          hint: "ask again: a manager that starts anew finds its devices",
        }),
      );
    }
    this.#waiting.clear();
    this.#onEnd?.();
  }
}

/** What a manager that ended wrote as its reason: the last `erofs-nbd: …` line since `from`. */
async function lastWords(runDir: RunDir, from: number): Promise<string | undefined> {
  const text = readFileSync(runDir.logFile).subarray(from).toString("utf8");
  return text
    .split("\n")
    .filter((line) => line.startsWith("erofs-nbd: "))
    .at(-1)
    ?.slice("erofs-nbd: ".length);
}
