/**
 * The guardian: a shell that starts another manager when this one dies. It waits at the end of a pipe.
 *
 * Used by daemon.ts while there are devices. A shell costs about a megabyte and no processor time. It cannot miss the
 * manager's death, because the kernel closes the pipe then; a manager that ends by plan writes `bye` first. If the
 * guardian dies, the manager starts another one. If both are killed at once, the next command starts a manager.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { openLog, type RunDir } from "../control/run-dir.ts";
import { programFile } from "../program-files.ts";

const CLI_PATH = programFile("cli/main.cjs");

/**
 * Each line is a new delay in seconds, or `bye`. At the end of the pipe the shell waits for the delay, exits if another
 * manager runs by then, or becomes the next manager. (A `sleep` without fractions fails at once, which is acceptable.)
 * The pid in the lock file saves a needless start; it is a hint, since the next manager takes the lock itself. The dead
 * manager's own pid ($2) is ignored: a process with that pid is a zombie or a later process, and holds no lock.
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

/** Delay before the next manager after the first one that died early. It quadruples with each further one. */
const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 30_000;
/** The least delay after a manager that a user or a service has started. */
const EXPLICIT_DELAY_MS = 5000;
/** A manager that has lived for this long did not die early. */
const SETTLED_MS = 10_000;
/** Passes the number of managers in a row that died early on to the next one. */
const VARIABLE = "EROFS_NBD_REVIVALS";

export interface GuardianOptions {
  readonly runDir: RunDir;
  /** Whether a command started the manager: then the next one may follow at once. */
  readonly auto: boolean;
  /** The command that starts the next manager; for tests. */
  readonly command?: readonly string[];
}

/** The delay before the next manager, after `revivals` managers in a row that died early. */
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

  /** The pid of the shell, if there is one. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** To be called regularly: starts the guardian where it is needed and missing, and ends it where it is not needed. */
  keep(needed: boolean): void {
    if (this.#isRetired) return;
    if (!needed) return this.#dismiss();
    if (this.#child === undefined) this.#start();
    if (!this.#isCalm && performance.now() - this.#bornAt > SETTLED_MS) {
      this.#isCalm = true;
      this.#say(seconds(this.#delayMs));
    }
  }

  /** To be called when the manager ends by plan: no other manager is started. */
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
    // In a session of its own, so that a signal to the manager's process group or terminal does not reach it.
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
    // EPIPE: it has just died, which `exit` reports as well.
    child.stdin?.on("error", () => {});
    child.unref();
    this.#say(seconds(this.#delayMs));
  }

  #say(line: string): void {
    this.#child?.stdin?.write(`${line}\n`);
  }
}

const seconds = (ms: number): string => (ms / 1000).toFixed(1);
