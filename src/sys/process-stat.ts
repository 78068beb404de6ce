/**
 * What the kernel says of a process in one line: /proc/PID/stat (proc_pid_stat(5)).
 *
 * For who a process is (records.ts), whether it can still die (worker-process.ts) and whether it gets on
 * (start-watch.ts). Reads it anew each time.
 */
import { readFileSync } from "node:fs";

export interface ProcessStat {
  /** The main thread's state, as a letter: Z is a zombie, D waits in the kernel. */
  readonly state: string;
  /** In ticks since boot: a reused pid has another one. */
  readonly startTime: string;
  /** Processor time of all threads so far, user and system, in clock ticks (10 ms). */
  readonly cpuTicks: number;
}

/** A process as it is now, or undefined when there is none of that pid. */
export function processStat(pid: number): ProcessStat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command in parentheses may hold anything; fields are counted after its end, where the third one begins.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const [state, startTime] = [fields[0], fields[19]];
    if (state === undefined || startTime === undefined) return undefined;
    return { state, startTime, cpuTicks: Number(fields[11]) + Number(fields[12]) };
  } catch {
    return undefined;
  }
}

/**
 * How often the main thread has waited for something so far (proc_pid_status(5)); undefined when there is no such
 * process. An event loop that turns waits again and again; one that is stopped or stuck does not.
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
