/**
 * A connection to the manager of a run directory, which is started where none runs.
 *
 * The start is waited for while the process that was started lives and gets on (start-watch.ts), not for a number of
 * seconds. When it ends, so does the waiting, with what it said last. A manager that was started in vain, because its
 * command gives up or is interrupted, is ended again unless a dead manager has left devices for it.
 */
import { spawn } from "node:child_process";
import { closeSync, existsSync, fstatSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../errors.ts";
import { programFile } from "../program-files.ts";
import { SILENCE_MS, StartWatch } from "../sys/start-watch.ts";
import { ControlClient } from "./client.ts";
import { hasRecords, lockHolder, openLog, prepareRunDir, type RunDir } from "./run-dir.ts";

const CLI_PATH = programFile("cli/main.cjs");
/** How often to look: a start that is slow anyway is not to be slowed down by being watched. */
const POLL_MS = 20;
const SLOW_POLL_MS = 100;
/** After this the waiting is mentioned, once. */
export const NOTICE_MS = 4000;
/** A manager that was just ending holds its directory for a moment more: the one started then gives up at once. */
const MAX_STARTS = 3;
/** What a manager says that finds the run directory taken (daemon.ts). */
const TAKEN = /: manager \d+ runs there/;

export interface StartOptions {
  /** Told once, after some seconds: what is being waited for. */
  readonly waiting?: (text: string) => void;
  /** Aborted: nothing is waited for any more. */
  readonly signal?: AbortSignal | undefined;
  /** What is run as the manager; for tests. */
  readonly program?: string;
  /** For tests. */
  readonly silenceMs?: number;
  /** For tests. */
  readonly noticeMs?: number;
}

/**
 * The manager that runs, or one that is started.
 * @throws ErofsNbdError ERR_CONTROL with the manager's own last words, or why it is not waited for any more; ERR_INTERRUPTED; ERR_RUN_DIR
 */
export async function connectOrStart(runDir: RunDir, options: StartOptions = {}): Promise<ControlClient> {
  const running = await ControlClient.connect(runDir);
  if (running !== undefined) return running;
  prepareRunDir(runDir);
  const { silenceMs = SILENCE_MS, noticeMs = NOTICE_MS } = options;
  const startedAtMs = performance.now();
  let starts = 1;
  let started = new StartedManager(runDir, options.program ?? CLI_PATH);
  let watch = new StartWatch(started.pid, "manager", { silenceMs });
  let isTold = false;
  try {
    for (;;) {
      // Connecting looks at the whole way there, which would take the time of the manager that is waited for.
      const client = existsSync(runDir.controlSocket) ? await ControlClient.connect(runDir) : undefined;
      if (client !== undefined) {
        started.keep();
        return client;
      }
      if (started.end !== undefined) {
        const words = started.lastWords();
        const mayTryAgain = started.hasLeft || (words !== undefined && TAKEN.test(words));
        // The manager that has the directory answers soon, or was just ending.
        const holder = mayTryAgain ? lockHolder(runDir) : undefined;
        if (holder === undefined) {
          if (!mayTryAgain || starts >= MAX_STARTS) throw cannotStart(runDir, words ?? started.end);
          starts += 1;
          started = new StartedManager(runDir, options.program ?? CLI_PATH);
        }
        const pid = holder ?? started.pid;
        if (watch.pid !== pid) watch = new StartWatch(pid, "manager", { silenceMs });
      }
      const trouble = watch.look();
      if (trouble !== undefined) {
        if (started.end === undefined) started.kill();
        throw doesNotGetOn(runDir, watch.pid, trouble, started.end === undefined);
      }
      if (options.signal?.aborted === true) throw interrupted();
      const waitedMs = performance.now() - startedAtMs;
      if (!isTold && waitedMs >= noticeMs) {
        isTold = true;
        options.waiting?.(describeWait(runDir, watch.pid));
      }
      await sleep(waitedMs < noticeMs ? POLL_MS : SLOW_POLL_MS, undefined, { signal: options.signal }).catch(
        () => {},
      );
    }
  } catch (error) {
    started.abandon();
    throw error;
  }
}

/**
 * Waits for the answer of a manager that may hang: it is asked for as long as its process gets on.
 * @throws ErofsNbdError ERR_CONTROL when it does not; otherwise as `answer`
 */
export async function untilAnswered<T>(
  runDir: RunDir,
  answer: Promise<T>,
  options: Pick<StartOptions, "waiting" | "silenceMs" | "noticeMs"> = {},
): Promise<T> {
  let isOver = false;
  const over = answer.then(
    () => {
      isOver = true;
    },
    () => {
      isOver = true;
    },
  );
  const startedAtMs = performance.now();
  let isTold = false;
  let watch: StartWatch | undefined;
  let timer: NodeJS.Timeout | undefined;
  while (!isOver) {
    const pause = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, SLOW_POLL_MS);
    });
    await Promise.race([over, pause]);
    clearTimeout(timer);
    if (isOver) break;
    const pid = lockHolder(runDir);
    if (pid === undefined) continue;
    if (watch?.pid !== pid) watch = new StartWatch(pid, "manager", options);
    const trouble = watch.look();
    if (trouble !== undefined) throw doesNotGetOn(runDir, pid, trouble, false);
    if (isTold || performance.now() - startedAtMs < (options.noticeMs ?? NOTICE_MS)) continue;
    isTold = true;
    options.waiting?.(`waiting for the manager (pid ${pid}) to answer; its log is ${runDir.logFile}`);
  }
  return answer;
}

/** A manager that outlives us and writes to its log file, unless it turns out that it was started in vain. */
class StartedManager {
  readonly pid: number;
  readonly #runDir: RunDir;
  readonly #logStartBytes: number;
  readonly #kill: () => void;
  #end: string | undefined;
  #code: number | null = null;

  /** @throws ErofsNbdError ERR_RUN_DIR */
  constructor(runDir: RunDir, program: string) {
    this.#runDir = runDir;
    const logFd = openLog(runDir);
    this.#logStartBytes = fstatSync(logFd).size;
    const argv = [program, "manager", "--auto", "--run-dir", runDir.path];
    const child = spawn(process.execPath, argv, {
      detached: true,
      cwd: "/",
      stdio: ["ignore", logFd, logFd],
    });
    closeSync(logFd);
    this.pid = child.pid ?? -1;
    this.#kill = () => void child.kill("SIGKILL");
    child.once("exit", (code, signal) => {
      this.#code = code;
      this.#end = `it ended with ${signal ?? `code ${code}`}, and its log does not say why (is ${runDir.path} full?)`;
      process.off("exit", this.abandon);
    });
    child.once("error", (error) => {
      this.#end = error.message;
    });
    child.unref();
    // A command that is interrupted ends its process: then there is no time for anything that is not done at once.
    process.once("exit", this.abandon);
  }

  /** How it ended, in words; undefined while it runs. */
  get end(): string | undefined {
    return this.#end;
  }

  /** It has ended as one does that has nothing to do: we were not quick enough to ask it. */
  get hasLeft(): boolean {
    return this.#code === 0;
  }

  /** It is used: from now on it ends by itself. */
  keep(): void {
    process.off("exit", this.abandon);
  }

  kill(): void {
    if (this.#end === undefined) this.#kill();
  }

  /** Nothing waits for it any more. Where a dead manager has left devices, it goes on all the same: they need it. */
  readonly abandon = (): void => {
    process.off("exit", this.abandon);
    if (this.#end !== undefined) return;
    try {
      if (!hasRecords(this.#runDir)) this.#kill();
    } catch {
      // The records cannot be read: then it decides itself, and ends when it has nothing to do.
    }
  };

  /** What it wrote as the reason for its end: its last `erofs-nbd: …` line. */
  lastWords(): string | undefined {
    const text = readFileSync(this.#runDir.logFile).subarray(this.#logStartBytes).toString("utf8");
    return text
      .split("\n")
      .filter((line) => line.startsWith("erofs-nbd: "))
      .at(-1)
      ?.slice("erofs-nbd: ".length);
  }
}

function describeWait(runDir: RunDir, pid: number): string {
  const holds = lockHolder(runDir) === pid;
  const what =
    holds && hasRecords(runDir) ? "it looks after devices that are attached" : "the machine is busy";
  return `waiting for the manager (pid ${pid}) to start: ${what}; its log is ${runDir.logFile}`;
}

function cannotStart(runDir: RunDir, why: string): ErofsNbdError {
  return new ErofsNbdError("ERR_CONTROL", `cannot start the manager: ${why}`, {
    hint: `its log is ${runDir.logFile}`,
  });
}

function doesNotGetOn(runDir: RunDir, pid: number, trouble: string, isOurs: boolean): ErofsNbdError {
  if (isOurs) return cannotStart(runDir, `its process ${pid} ${trouble}, and was ended`);
  return new ErofsNbdError("ERR_CONTROL", `cannot talk to the manager: its process ${pid} ${trouble}`, {
    hint: `continue it with 'kill -CONT ${pid}', or end it with 'kill -KILL ${pid}': devices stay, and another manager finds them`,
  });
}

function interrupted(): ErofsNbdError {
  return new ErofsNbdError("ERR_INTERRUPTED", "cannot start the manager: interrupted");
}
