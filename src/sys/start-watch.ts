/**
 * Whether a process that was started, or that is waited for, gets on: what decides how long its start may take.
 *
 * A start has no fixed limit. Beside other work it takes ten times as long as on an idle machine, and a manager may
 * have hundreds of devices to go on with. A limit in seconds would end the slow ones, and they would be started again
 * on a machine that is busy already. So the start is waited for while its process shows signs of life, and given up
 * when there was none for `silenceMs`. A sign is:
 *
 * - It is runnable (state R). A starved process has done nothing, and is not to blame for that.
 * - Its processor time has grown by a clock tick. Loading and warming up are work from beginning to end.
 * - For a manager, its event loop has turned (voluntary context switches of the main thread). A manager that adopts devices mostly waits
 *   for workers and for the kernel. Each such step has its own deadline, so a loop that turns comes to an end. A worker's start has no
 *   such steps: one whose loop turns without doing any work will not get ready.
 *
 * A stopped process (SIGSTOP, a debugger) and one that is stuck in the kernel or on a lock show none of these: they
 * hang. Time in which the watching process did not run itself does not count.
 */
import { processStat, voluntarySwitches } from "./process-stat.ts";

/** What is seen of a process in one look. */
export interface Pulse {
  /** As in /proc/PID/stat. */
  readonly state: string;
  readonly cpuTicks: number;
  readonly switches: number;
}

/** "manager": a turn of its event loop is a sign of life. "worker": only work is. */
export type StartKind = "manager" | "worker";

/** Longer than a process waits for one page of a slow disk. */
export const SILENCE_MS = 20_000;
/** A longer gap between two looks is time in which we did not run. */
const LONGEST_GAP_MS = 500;

export class StartWatch {
  readonly pid: number;
  readonly #kind: StartKind;
  readonly #silenceMs: number;
  readonly #read: (pid: number) => Pulse | undefined;
  #last: Pulse | undefined;
  #lookedAtMs: number | undefined;
  #silentMs = 0;

  /** `silenceMs` and `read` are for tests. */
  constructor(
    pid: number,
    kind: StartKind,
    { silenceMs = SILENCE_MS, read = readPulse }: { silenceMs?: number; read?: typeof readPulse } = {},
  ) {
    this.pid = pid;
    this.#kind = kind;
    this.#silenceMs = silenceMs;
    this.#read = read;
  }

  /**
   * Looks once; to be called several times a second. Returns why the process does not get on, in words that follow
   * its name; undefined while it does, and when it has ended: that is for its parent to tell.
   */
  look(nowMs: number = performance.now()): string | undefined {
    const pulse = this.#read(this.pid);
    const gapMs = Math.min(nowMs - (this.#lookedAtMs ?? nowMs), LONGEST_GAP_MS);
    this.#lookedAtMs = nowMs;
    if (pulse === undefined || this.#showsLife(pulse)) this.#silentMs = 0;
    else this.#silentMs += gapMs;
    this.#last = pulse;
    if (pulse === undefined || this.#silentMs < this.#silenceMs) return undefined;
    if (pulse.state === "T" || pulse.state === "t") return "is stopped";
    const seconds = Math.round(this.#silentMs / 1000);
    return `has done nothing for ${seconds} s${pulse.state === "D" ? ": it waits in the kernel" : ""}`;
  }

  #showsLife(pulse: Pulse): boolean {
    const last = this.#last;
    if (last === undefined || pulse.state === "R" || pulse.cpuTicks > last.cpuTicks) return true;
    return this.#kind === "manager" && pulse.switches > last.switches;
  }
}

/** What /proc says of a process; undefined when it has ended. */
function readPulse(pid: number): Pulse | undefined {
  const stat = processStat(pid);
  const switches = voluntarySwitches(pid);
  if (stat === undefined || switches === undefined || stat.state === "Z") return undefined;
  return { state: stat.state, cpuTicks: stat.cpuTicks, switches };
}
