/**
 * State, start time and processor time of a process, from /proc/PID/stat (proc_pid_stat(5)).
 *
 * Used to identify processes (process-identity.ts), to see whether one is stuck in the kernel (worker-process.ts) and
 * whether it makes progress (start-watch.ts).
 */
import { readFileSync } from "node:fs";

export interface ProcessStat {
  /** State of the main thread: Z is a zombie, D an uninterruptible wait. */
  readonly state: string;
  /** How many threads have not ended, the main thread included as long as the process is not reaped. */
  readonly threads: number;
  /** In clock ticks since boot. */
  readonly startTime: string;
  /** User and system time of all threads, in clock ticks (10 ms). */
  readonly cpuTicks: number;
}

/** Undefined if no process has this pid. */
export function processStat(pid: number): ProcessStat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command in parentheses may contain anything. The third field begins after it.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const [state, startTime] = [fields[0], fields[19]];
    if (state === undefined || startTime === undefined) return undefined;
    const cpuTicks = Number(fields[11]) + Number(fields[12]);
    return { state, startTime, cpuTicks, threads: Number(fields[17]) };
  } catch {
    return undefined;
  }
}

/**
 * Whether the main thread of a process has ended and another thread has not. Such a process is a zombie that cannot
 * be reaped and keeps its descriptors.
 */
export function hasLostMainThread(pid: number): boolean {
  const { state, threads = 0 } = processStat(pid) ?? {};
  return state === "Z" && threads > 1;
}

/**
 * Voluntary context switches of the main thread (proc_pid_status(5)); undefined if there is no such process. The
 * number grows with each turn of an event loop, and not while the process is stopped or stuck.
 */
export function voluntarySwitches(pid: number): number | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/status`, "latin1");
    const found = /^voluntary_ctxt_switches:\s*(\d+)$/m.exec(text);
    return found === null ? undefined : Number(found[1]);
  } catch {
    return undefined;
  }
}
