/**
 * Connects to the manager of a run directory, and starts one if none is running.
 *
 * Used by reach-manager.ts. There is no time limit: it waits while the started process lives and makes progress
 * (sys/start-watch.ts). If the process ends, its last log line becomes the error. If the wait ends early, because the
 * command is interrupted, the started manager is killed, unless a dead manager has left devices for it.
 */
import { spawn } from "node:child_process";
import { closeSync, existsSync, fstatSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../../errors.ts";
import { programFile } from "../../program-files.ts";
import { SILENCE_MS, StartWatch } from "../../sys/start-watch.ts";
import { ControlClient } from "../client.ts";
import { hasRecords, lockHolder, openLog, type RunDir } from "../run-dir.ts";
import { prepareRunDir } from "../run-dir-trust.ts";

const CLI_PATH = programFile("cli/main.cjs");
/** Poll intervals. The second one keeps the polling from slowing down a start that is slow already. */
const POLL_MS = 20;
const SLOW_POLL_MS = 100;
/** After this time the wait is reported, once. */
export const NOTICE_MS = 4000;
/** A manager that is about to end still holds the lock for a moment, and a manager started then gives up at once. */
const MAX_STARTS = 3;
/** The message of a manager that finds the run directory locked (manager/daemon.ts). */
const TAKEN = /: manager \d+ runs there/;

export interface StartOptions {
  /** Called once, after some seconds, with what is waited for. */
  readonly waiting?: (text: string) => void;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
  /** The program that is run as the manager; for tests. */
  readonly program?: string;
  /** For tests. */
  readonly silenceMs?: number;
  /** For tests. */
  readonly noticeMs?: number;
}

/**
 * The running manager, or one that is started.
 * @throws ErofsNbdError ERR_CONTROL with the manager's last message, or that it hangs; ERR_INTERRUPTED; ERR_RUN_DIR
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
      // Connecting checks the whole path, which would take processor time from the manager that is starting.
      const client = existsSync(runDir.controlSocket) ? await ControlClient.connect(runDir) : undefined;
      if (client !== undefined) {
        started.keep();
        return client;
      }
      if (started.end !== undefined) {
        const words = started.lastWords();
        const mayTryAgain = started.hasLeft || (words !== undefined && TAKEN.test(words));
        // The manager that holds the lock will answer soon, or is about to end.
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
        throw makesNoProgress(runDir, watch.pid, trouble, started.end === undefined);
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
 * Waits for the answer of a manager that may hang, for as long as its process makes progress.
 * @throws ErofsNbdError ERR_CONTROL if it does not; otherwise as `answer`
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
    if (trouble !== undefined) throw makesNoProgress(runDir, pid, trouble, false);
    if (isTold || performance.now() - startedAtMs < (options.noticeMs ?? NOTICE_MS)) continue;
    isTold = true;
    options.waiting?.(`waiting for the manager (pid ${pid}) to answer; its log is ${runDir.logFile}`);
  }
  return answer;
}

/** A started manager, which outlives this process and writes to its log file, unless it is abandoned. */
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
    // An interrupted command calls process.exit(): only synchronous code runs then.
    process.once("exit", this.abandon);
  }

  /** How it ended, as text; undefined while it runs. */
  get end(): string | undefined {
    return this.#end;
  }

  /** It has ended because it had nothing to do, before a request reached it. */
  get hasLeft(): boolean {
    return this.#code === 0;
  }

  /** It is connected: from now on it ends by itself. */
  keep(): void {
    process.off("exit", this.abandon);
  }

  kill(): void {
    if (this.#end === undefined) this.#kill();
  }

  /** Kills it, unless a dead manager has left devices for it to adopt. */
  readonly abandon = (): void => {
    process.off("exit", this.abandon);
    if (this.#end !== undefined) return;
    try {
      if (!hasRecords(this.#runDir)) this.#kill();
    } catch {
      // The records cannot be read: the manager ends by itself if it has nothing to do.
    }
  };

  /** The reason for its end: its last `erofs-nbd: …` line in the log. */
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
  const what = holds && hasRecords(runDir) ? "it is adopting attached devices" : "the machine is busy";
  return `waiting for the manager (pid ${pid}) to start: ${what}; its log is ${runDir.logFile}`;
}

function cannotStart(runDir: RunDir, why: string): ErofsNbdError {
  return new ErofsNbdError("ERR_CONTROL", `cannot start the manager: ${why}`, {
    hint: `its log is ${runDir.logFile}`,
  });
}

function makesNoProgress(runDir: RunDir, pid: number, trouble: string, isOurs: boolean): ErofsNbdError {
  if (isOurs) return cannotStart(runDir, `its process ${pid} ${trouble}, and was ended`);
  return new ErofsNbdError("ERR_CONTROL", `cannot talk to the manager: its process ${pid} ${trouble}`, {
    hint:
      `continue it with 'kill -CONT ${pid}', or end it with 'kill -KILL ${pid}': devices stay attached, ` +
      "and the next manager adopts them",
  });
}

function interrupted(): ErofsNbdError {
  return new ErofsNbdError("ERR_INTERRUPTED", "cannot start the manager: interrupted");
}
