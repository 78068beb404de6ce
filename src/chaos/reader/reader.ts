/**
 * The engine's end of the reader process: starts it, sends it requests, collects its measurements.
 *
 * Nothing here reads the device. Each request has one answer and a time limit; a process that does not answer, or has
 * ended, is an error. `kill` is for the end of the run's own process.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { ErofsNbdError } from "../../errors.ts";
import { programFile } from "../../program-files.ts";
import { inTime } from "../waiting.ts";
import type { ReaderMessage, ReaderRequest, ReaderStart, Span } from "./reader-protocol.ts";

const READER_PATH = programFile("chaos/reader/reader-main.js");
const ANSWER_DEADLINE_MS = 30_000;

export interface ReaderEvents {
  span(span: Span): void;
  /** A wrong byte, a failed read, or the reader's own unexpected end. */
  trouble(what: string): void;
}

type Answer<T extends ReaderMessage["type"]> = Extract<ReaderMessage, { readonly type: T }>;

export interface ReaderTotals {
  readonly reads: number;
  readonly bytes: number;
  readonly wrong: number;
  readonly errors: number;
}

export class Reader {
  readonly #child: ChildProcess;
  readonly #events: ReaderEvents;
  readonly #waiting = new Map<ReaderMessage["type"], (message: ReaderMessage) => void>();
  readonly #ended: Promise<void>;
  #totals = { reads: 0, bytes: 0, wrong: 0, errors: 0 };
  #isOver = false;
  #isLeaving = false;

  /** `program` is what to run, for tests. */
  constructor(start: ReaderStart, events: ReaderEvents, program: string = READER_PATH) {
    this.#events = events;
    this.#child = spawn(process.execPath, [program], {
      stdio: ["ignore", "ignore", "inherit", "ipc"],
      env: { ...process.env, UV_THREADPOOL_SIZE: `${start.depth}` },
    });
    this.#child.on("message", (message: ReaderMessage) => this.#hear(message));
    this.#ended = new Promise((resolve) => {
      const over = (why: string): void => {
        if (this.#isOver) return;
        this.#isOver = true;
        if (!this.#isLeaving) events.trouble(`the reader ended by itself: ${why}`);
        resolve();
      };
      this.#child.once("error", (error) => over(error.message));
      this.#child.once("exit", (code, signal) => over(signal ?? `exit code ${code}`));
    });
    this.#ask(start);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Its totals so far; exact once it has stopped. */
  get totals(): ReaderTotals {
    return this.#totals;
  }

  /** Resolves when as many reads as the depth are in flight. @throws ErofsNbdError */
  async reading(signal: AbortSignal): Promise<void> {
    await this.#answer("reading", "the reader began to read", ANSWER_DEADLINE_MS, signal);
  }

  /** Begins a window: call before a fault. @throws ErofsNbdError */
  async open(signal: AbortSignal): Promise<void> {
    const opened = this.#answer("opened", "the reader answered", ANSWER_DEADLINE_MS, signal);
    this.#ask({ type: "open" });
    await opened;
  }

  /** Waits until every read that is under way has ended and others have, and ends the window. @throws ErofsNbdError */
  async settle(deadlineMs: number, signal: AbortSignal): Promise<Answer<"settled">> {
    const settled = this.#answer("settled", "reads flowed again", deadlineMs, signal);
    this.#ask({ type: "settle" });
    return settled;
  }

  /**
   * Lets it finish and waits for its end. False when its reads do not end in time: then it was sent SIGKILL, and ends
   * with its reads.
   */
  async stop(deadlineMs: number): Promise<boolean> {
    this.#isLeaving = true;
    this.#ask({ type: "stop" });
    const timer = setTimeout(() => this.kill(), deadlineMs);
    const hasLeft = await inTime(deadlineMs + 500, undefined, this.#ended, "").then(
      () => true,
      () => false,
    );
    clearTimeout(timer);
    this.#child.unref();
    this.#child.channel?.unref();
    return hasLeft && this.#child.signalCode === null;
  }

  /** At once, without waiting. */
  kill(): void {
    this.#isLeaving = true;
    if (!this.#isOver) this.#child.kill("SIGKILL");
  }

  #ask(request: ReaderRequest): void {
    // `exit` reports the end of the process, so a failed send needs no handling.
    if (this.#child.connected) this.#child.send(request, () => {});
  }

  #hear(message: ReaderMessage): void {
    if (message.type === "span") return this.#events.span(message);
    if (message.type === "stopped") this.#totals = message;
    if (message.type === "failed") {
      this.#isLeaving = true;
      return this.#events.trouble(`the reader cannot begin: ${message.why}`);
    }
    if (message.type === "trouble") {
      this.#totals = { ...this.#totals, wrong: message.wrong, errors: message.errors };
      return this.#events.trouble(message.what);
    }
    this.#waiting.get(message.type)?.(message);
    this.#waiting.delete(message.type);
  }

  #answer<T extends ReaderMessage["type"]>(
    type: T,
    what: string,
    deadlineMs: number,
    signal: AbortSignal,
  ): Promise<Answer<T>> {
    const answer = new Promise<Answer<T>>((resolve, reject) => {
      this.#waiting.set(type, (message) => resolve(message as Answer<T>));
      void this.#ended.then(() =>
        reject(new ErofsNbdError("ERR_NOT_READABLE", "cannot go on: the reader ended")),
      );
    });
    return inTime(deadlineMs, signal, answer, what);
  }
}
