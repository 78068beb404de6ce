/**
 * Processes that open images for the manager, and the orders that wait for one.
 *
 * Used by recorded-image.ts. One process carries out one order after the other. When it is stuck in one, another goes
 * on with the rest, except for orders at the same place (a mount, a file system): these wait until the stuck one
 * returns. So a file system that does not answer holds up its own images alone, there are never more processes than
 * places, and images are opened as soon as the file system answers again. Processes end when nothing is left to open.
 */
import type { OpenOrder } from "../../opener/messages.ts";
import { programFile } from "../../program-files.ts";
import { close } from "../../sys/libc/files.ts";
import { processStat } from "../../sys/process-stat.ts";
import { type Answer, OpenerProcess } from "./opener-process.ts";

/** An order that was given. */
export interface Pending {
  /** Undefined: it was cancelled. Never rejects. The receiver closes the answer's descriptor. */
  readonly answer: Promise<Answer | undefined>;
  cancel(): void;
}

export interface ImageOpenersOptions {
  readonly log: { warn(message: string): void };
  readonly stderr: number | "inherit" | "ignore";
  /** The program of an opener; for tests. */
  readonly openerPath?: string;
}

interface Task {
  readonly order: OpenOrder;
  readonly place: string;
  readonly settle: (answer: Answer | undefined) => void;
  readonly noteLate: () => void;
  /** Runs while a stuck process has its place. */
  timer?: NodeJS.Timeout;
}

interface Opener {
  readonly process: OpenerProcess;
  isReady: boolean;
  /** Nothing was heard of it for a while. */
  isStuck: boolean;
  task: Task | undefined;
  timers: NodeJS.Timeout[];
}

const OPENER_PATH: string = programFile("opener/main.cjs");
/** An open that takes longer than this does not hold up images at other places, */
const STUCK_MS = 250;
/** and after this it is late. Workers of a former manager have as long to answer. */
const LATE_MS = 1000;
/** What a process is to open is late when it has not even started by then. It goes on starting. */
const START_MS = 5000;
/** Delays before another process follows one that has died. */
const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 5000;

export class ImageOpeners {
  readonly #options: ImageOpenersOptions;
  readonly #openers = new Set<Opener>();
  readonly #queue: Task[] = [];
  #retryMs = FIRST_RETRY_MS;
  #retry: NodeJS.Timeout | undefined;
  #hasEnded = false;

  constructor(options: ImageOpenersOptions) {
    this.#options = options;
  }

  /** The pids of the processes that run. */
  get pids(): (number | undefined)[] {
    return [...this.#openers].map(({ process }) => process.pid);
  }

  /**
   * Orders are carried out in the order of the calls. `noteLate` is called when one takes so long that its device must
   * be shown without its image; it may still succeed.
   */
  submit(order: OpenOrder, place: string, noteLate: () => void): Pending {
    let settle: Task["settle"] = () => {};
    const answer = new Promise<Answer | undefined>((resolve) => {
      settle = resolve;
    });
    const task: Task = { order, place, settle, noteLate };
    if (this.#hasEnded) settle(undefined);
    else {
      this.#queue.push(task);
      // Those of one turn are known before a process is started for the first.
      setImmediate(() => this.#advance());
    }
    return { answer, cancel: () => this.#cancel(task) };
  }

  /** Everything that is not answered counts as cancelled. */
  close(): void {
    this.#hasEnded = true;
    clearTimeout(this.#retry);
    for (const { settle } of this.#queue.splice(0)) settle(undefined);
    for (const opener of [...this.#openers]) this.#drop(opener)?.settle(undefined);
  }

  #cancel(task: Task): void {
    const at = this.#queue.indexOf(task);
    if (at >= 0) this.#queue.splice(at, 1);
    for (const opener of this.#openers) if (opener.task === task) this.#drop(opener);
    task.settle(undefined);
    this.#advance();
  }

  /** Gives out what can be given out. */
  #advance(): void {
    if (this.#hasEnded) return;
    const isTaken = (place: string): boolean =>
      [...this.#openers].some(({ isStuck, task }) => isStuck && task?.place === place);
    for (const task of this.#queue.filter(({ place }) => isTaken(place)))
      task.timer ??= setTimeout(task.noteLate, LATE_MS).unref();
    const next = this.#queue.findIndex(({ place }) => !isTaken(place));
    const free = [...this.#openers].find(({ isReady, task }) => isReady && task === undefined);
    if (next < 0) {
      if (free !== undefined) this.#drop(free);
      return;
    }
    // One that starts, or has not been silent for long, takes the next order.
    if (free === undefined && [...this.#openers].some(({ isStuck }) => !isStuck)) return;
    if (free === undefined) return this.#start();
    this.#give(free, this.#queue.splice(next, 1)[0] as Task);
    this.#advance();
  }

  #give(opener: Opener, task: Task): void {
    opener.task = task;
    opener.timers = [];
    whenWaiting(opener, STUCK_MS, () => {
      opener.isStuck = true;
      this.#advance();
    });
    whenWaiting(opener, LATE_MS, task.noteLate);
    opener.process.send(task.order);
  }

  #start(): void {
    if (this.#retry !== undefined) return;
    const { stderr, openerPath = OPENER_PATH } = this.#options;
    const late = setTimeout(() => this.#noteAllLate(), START_MS);
    let opener: Opener | undefined;
    try {
      const process = new OpenerProcess(openerPath, stderr, {
        ready: () => {
          if (opener === undefined) return;
          clearTimeout(late);
          opener.isReady = true;
          this.#retryMs = FIRST_RETRY_MS;
          this.#advance();
        },
        answered: (answer) => {
          if (opener !== undefined) this.#hear(opener, answer);
        },
        ended: (why) => {
          if (opener !== undefined) this.#lose(opener, why);
        },
      });
      opener = { process, isReady: false, isStuck: false, task: undefined, timers: [late] };
      this.#openers.add(opener);
    } catch (error) {
      clearTimeout(late);
      this.#startLater(error instanceof Error ? error.message : String(error));
    }
  }

  #hear(opener: Opener, answer: Answer): void {
    const { task } = opener;
    for (const timer of opener.timers) clearTimeout(timer);
    opener.task = undefined;
    opener.isStuck = false;
    if (task !== undefined) task.settle(answer);
    else if (answer.type === "opened") close(answer.fd);
    this.#advance();
  }

  /** It has died: what it was to open is opened by the next one. */
  #lose(opener: Opener, why: string): void {
    const task = this.#drop(opener);
    if (task !== undefined) this.#queue.unshift(task);
    this.#startLater(why);
  }

  #startLater(why: string): void {
    this.#options.log.warn(
      `cannot open images: a process that was to do it has not started, or died: ${why}`,
    );
    this.#noteAllLate();
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#advance();
    }, this.#retryMs).unref();
    this.#retryMs = Math.min(this.#retryMs * 2, MAX_RETRY_MS);
  }

  #noteAllLate(): void {
    for (const { noteLate } of this.#queue) noteLate();
  }

  /** Returns the order that it has not answered. */
  #drop(opener: Opener): Task | undefined {
    for (const timer of opener.timers) clearTimeout(timer);
    this.#openers.delete(opener);
    opener.process.dismiss();
    const { task } = opener;
    opener.task = undefined;
    return task;
  }
}

/** Calls back when the process waits in the kernel after that time. One that is runnable is short of a processor. */
function whenWaiting({ process: { pid = 0 }, timers }: Opener, delayMs: number, act: () => void): void {
  const look = (): void => {
    if (processStat(pid)?.state === "R") timers.push(setTimeout(look, delayMs));
    else act();
  };
  timers.push(setTimeout(look, delayMs));
}
