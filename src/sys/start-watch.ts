/**
 * Detects whether a process that is starting makes progress. This decides how long a start may take.
 *
 * A start has no fixed timeout. On a busy machine it takes ten times as long as on an idle one, and a manager may have
 * to adopt hundreds of devices. A fixed timeout would kill slow starts and repeat them on a machine that is busy
 * already. So the caller waits while the process makes progress, and gives up when it made none for `silenceMs`.
 * Progress is one of:
 *
 * - The process is runnable (state R). A starved process cannot do anything.
 * - Its processor time has grown by a clock tick. Loading and warming up use the processor all the time.
 * - For a manager, its event loop has turned (voluntary context switches of the main thread). A manager that adopts
 *   devices mostly waits for workers and for the kernel. Each such step has its own deadline, so that ends. The start
 *   of a worker has no such steps: if its loop turns without using the processor, it will not become ready.
 *
 * A process that is stopped (SIGSTOP, a debugger) or stuck in the kernel or on a lock makes no progress. Time in which
 * the watching process did not run does not count.
 */
import { processStat, voluntarySwitches } from "./process-stat.ts";

/** One sample of a process. */
export interface Pulse {
  /** As in /proc/PID/stat. */
  readonly state: string;
  readonly cpuTicks: number;
  readonly switches: number;
}

/** "manager": a turn of its event loop is progress. "worker": only processor time is. */
export type StartKind = "manager" | "worker";

/** Longer than a process waits for one page of a slow disk. */
export const SILENCE_MS = 20_000;
/** In a longer gap between two samples this process did not run. */
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
   * Takes a sample; call it several times a second. Returns why the process makes no progress, as a clause that follows
   * its name. Undefined while it does, and after it has exited, which its parent reports.
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

/** Undefined if the process has exited. */
function readPulse(pid: number): Pulse | undefined {
  const stat = processStat(pid);
  const switches = voluntarySwitches(pid);
  if (stat === undefined || switches === undefined || stat.state === "Z") return undefined;
  return { state: stat.state, cpuTicks: stat.cpuTicks, switches };
}
