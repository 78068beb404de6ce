/**
 * Somebody who notices that the manager is dead and starts another one: a shell that waits at the end of a pipe.
 *
 * Used by daemon.ts while there are devices. A shell, because it is to cost nothing (about a megabyte, no processor
 * time) and has nothing that could go wrong. It cannot miss a death: the kernel closes the pipe. A manager that
 * leaves by plan says so first. If the guardian dies, the manager starts another one; only who kills both at once has
 * to give a command.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { openLog, type RunDir } from "../control/run-dir.ts";
import { programFile } from "../program-files.ts";

const CLI_PATH = programFile("cli/main.cjs");

/**
 * A line is a new delay in seconds, or «bye». At the pipe's end: wait, leave if somebody else was quicker, or become
 * the next manager. (`sleep` of a system that knows no fractions ends at once, which will do.) The lock file's pid is
 * a hint, which saves a start: where it is the dead manager's own ($2), whoever has that pid now (a process that came
 * later, or what nobody has waited for) holds no lock. The next manager asks the lock itself.
 */
const SCRIPT = `
delay=0
while read -r word; do
  [ "$word" = bye ] && exit 0
  delay=$word
done
sleep "$delay"
read -r pid < "$1" && [ "$pid" != "$2" ] && kill -0 "$pid" 2>/dev/null && exit 0
shift 2
exec "$@" < /dev/null
`;

/** Managers that die again and again are started ever more slowly: this long after the first death… */
const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 30_000;
/** …and after the death of one that somebody else will start again, a service or a person. */
const EXPLICIT_DELAY_MS = 5000;
/** One that has lived for so long did not die of its start. */
const SETTLED_MS = 10_000;
/** How many managers in a row have died young, from each to its successor. */
const VARIABLE = "EROFS_NBD_REVIVALS";

export interface GuardianOptions {
  readonly runDir: RunDir;
  /** Whether the manager was started by a command: then its successor may come at once. */
  readonly auto: boolean;
  /** What the successor is started with; for tests. */
  readonly command?: readonly string[];
}

/** How long the successor of a manager waits that was itself the successor of `revivals` that died young, in ms. */
export function revivalDelayMs(auto: boolean, revivals: number): number {
  return Math.max(Math.min(FIRST_DELAY_MS * 4 ** revivals, LONGEST_DELAY_MS), auto ? 0 : EXPLICIT_DELAY_MS);
}

export class Guardian {
  readonly #options: GuardianOptions;
  readonly #bornAt = performance.now();
  readonly #revivals = Number(process.env[VARIABLE]) || 0;
  #child: ChildProcess | undefined;
  #isCalm = false;
  #isRetired = false;

  constructor(options: GuardianOptions) {
    this.#options = options;
  }

  /** Pid of the shell, if there is one. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** To be called now and then: sees that there is a guardian while there is something to guard, and none otherwise. */
  keep(needed: boolean): void {
    if (this.#isRetired) return;
    if (!needed) return this.#dismiss();
    if (this.#child === undefined) this.#start();
    if (!this.#isCalm && performance.now() - this.#bornAt > SETTLED_MS) {
      this.#isCalm = true;
      this.#say(seconds(this.#delayMs));
    }
  }

  /** The manager ends by plan. */
  retire(): void {
    this.#isRetired = true;
    this.#dismiss();
  }

  #dismiss(): void {
    const child = this.#child;
    this.#child = undefined;
    child?.stdin?.end("bye\n");
  }

  get #delayMs(): number {
    return revivalDelayMs(this.#options.auto, this.#isCalm ? 0 : this.#revivals);
  }

  #start(): void {
    const { runDir, command } = this.#options;
    const manager = command ?? [process.execPath, CLI_PATH, "manager", "--auto", "--run-dir", runDir.path];
    const logFd = openLog(runDir);
    const revivals = this.#isCalm ? 1 : this.#revivals + 1;
    const words = ["erofs-nbd guardian", runDir.lockFile, String(process.pid), ...manager];
    // A session of its own: what ends the manager's process group or terminal is not to end it.
    const child = spawn("/bin/sh", ["-c", SCRIPT, ...words], {
      stdio: ["pipe", "ignore", logFd],
      detached: true,
      cwd: "/",
      env: { ...process.env, [VARIABLE]: String(revivals) },
    });
    closeSync(logFd);
    this.#child = child;
    const gone = (): void => {
      if (this.#child === child) this.#child = undefined;
    };
    child.once("exit", gone);
    child.once("error", gone);
    // EPIPE: it has just died, which `exit` tells as well.
    child.stdin?.on("error", () => {});
    child.unref();
    this.#say(seconds(this.#delayMs));
  }

  #say(line: string): void {
    this.#child?.stdin?.write(`${line}\n`);
  }
}

const seconds = (ms: number): string => (ms / 1000).toFixed(1);
