/**
 * The command line's end of the control socket: find the manager, start it if none runs, ask it things.
 *
 * Answers are matched by id. A manager that goes away in the middle of a request makes that request fail; nothing
 * here retries, because the caller knows what was asked and whether asking twice is safe.
 */
import { spawn } from "node:child_process";
import { closeSync, fstatSync, readFileSync } from "node:fs";
import { createConnection, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { ErofsNbdError } from "../errors.ts";
import { undisturbed } from "../listening.ts";
import { ControlError } from "./control-fault.ts";
import type { DeviceEvent, Method, Requests, ServerLine } from "./control-protocol.ts";
import { LineSplitter } from "./lines.ts";
import {
  checkSocketPath,
  lockHolder,
  openLog,
  prepareRunDir,
  type RunDir,
  refuseForeignManager,
} from "./run-dir.ts";

const CLI_PATH = fileURLToPath(new URL("../cli/main.js", import.meta.url));
/**
 * How long a manager may take that was started; longer once it has the run directory: it may have hundreds of devices to go on with
 * first.
 */
const START_PATIENCE = { startMs: 20_000, busyMs: 180_000 };
const POLL_MS = 20;
/** A manager that was just ending holds its directory for a moment more: the one started then gives up at once. */
const MAX_STARTS = 3;
/** The last one: there was a listener, and it died before it accepted us (net/unix/af_unix.c, unix_release_sock). */
const NOBODY_LISTENS: ReadonlySet<string> = new Set(["ENOENT", "ENOTDIR", "ECONNREFUSED", "ECONNRESET"]);

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

  private constructor(socket: Socket) {
    this.#socket = socket;
    const lines = new LineSplitter({ line: (line) => this.#hear(JSON.parse(line) as ServerLine) });
    socket.on("data", (chunk: Buffer) => lines.push(chunk));
    socket.on("error", () => {});
    socket.once("close", () => this.#ended());
  }

  /** A connection to the manager that runs, or undefined when none does. @throws ErofsNbdError ERR_PERMISSION, ERR_RUN_DIR: nobody there is to be trusted */
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
      if (code !== undefined && NOBODY_LISTENS.has(code)) return undefined;
      const denied = code === "EACCES" || code === "EPERM";
      throw new ErofsNbdError(
        denied ? "ERR_PERMISSION" : "ERR_CONTROL",
        `Cannot talk to the manager at ${runDir.controlSocket}: ${denied ? "permission denied" : code}`,
        { hint: denied ? "run as root" : undefined, cause: error },
      );
    }
    return new ControlClient(socket);
  }

  /**
   * Connects, and starts a manager first where none runs; `program` and the patience are for tests.
   * @throws ErofsNbdError with the manager's own last words
   */
  static async connectOrStart(
    runDir: RunDir,
    program: string = CLI_PATH,
    { startMs, busyMs }: typeof START_PATIENCE = START_PATIENCE,
  ): Promise<ControlClient> {
    const running = await ControlClient.connect(runDir);
    if (running !== undefined) return running;
    prepareRunDir(runDir);
    let starts = 1;
    let started = startManager(runDir, program);
    const startedAt = performance.now();
    const patienceMs = (): number => (lockHolder(runDir) === undefined ? startMs : busyMs);
    while (performance.now() - startedAt < patienceMs()) {
      const client = await ControlClient.connect(runDir);
      if (client !== undefined) return client;
      // The one we started may have found the directory taken: then whoever has it answers soon, or has just ended.
      if (started.end() !== undefined && lockHolder(runDir) === undefined) {
        if (starts === MAX_STARTS) break;
        starts += 1;
        started = startManager(runDir, program);
      }
      await sleep(POLL_MS);
    }
    const words = lastWords(runDir, started.logStartBytes) ?? started.end() ?? "it did not answer in time";
    throw new ErofsNbdError("ERR_CONTROL", `Cannot start the manager: ${words}`, {
      hint: `its log is ${runDir.logFile}`,
    });
  }

  request<M extends Method>(method: M, params: Requests[M]["params"]): Promise<Requests[M]["result"]> {
    const id = this.#nextId++;
    return new Promise<Requests[M]["result"]>((resolve, reject) => {
      if (this.#gone) return reject(managerGone());
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
    // Lines that came in one go with it are to be heard, whatever the listener does.
    if ("event" in line) return undisturbed(() => this.#onEvent?.(line.event));
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

function managerGone(): ErofsNbdError {
  return new ErofsNbdError("ERR_CONTROL", "Cannot finish the request: the manager went away", {
    hint: "ask again: a manager that starts anew finds its devices",
  });
}

interface StartedManager {
  /** How it ended, in words; undefined while it runs. */
  end(): string | undefined;
  /** What the log held before. */
  readonly logStartBytes: number;
}

/** Starts a manager that outlives us and writes to its log file. @throws ErofsNbdError ERR_RUN_DIR */
function startManager(runDir: RunDir, program: string): StartedManager {
  const logFd = openLog(runDir);
  const logStartBytes = fstatSync(logFd).size;
  const argv = [program, "manager", "--auto", "--run-dir", runDir.path];
  const child = spawn(process.execPath, argv, {
    detached: true,
    cwd: "/",
    stdio: ["ignore", logFd, logFd],
  });
  closeSync(logFd);
  let end: string | undefined;
  child.once("exit", (code, signal) => {
    end = `it ended with ${signal ?? `code ${code}`}, and its log does not say why (is ${runDir.path} full?)`;
  });
  child.once("error", (error) => {
    end = error.message;
  });
  child.unref();
  return { end: () => end, logStartBytes };
}

/** What a manager that ended wrote as its reason: the last `erofs-nbd: …` line since `from`. */
function lastWords(runDir: RunDir, from: number): string | undefined {
  const text = readFileSync(runDir.logFile).subarray(from).toString("utf8");
  return text
    .split("\n")
    .filter((line) => line.startsWith("erofs-nbd: "))
    .at(-1)
    ?.slice("erofs-nbd: ".length);
}
