/**
 * What the kernel says of a process in one line: /proc/PID/stat (proc_pid_stat(5)).
 *
 * For who a process is (records.ts) and whether it can still die (worker-process.ts). Reads it anew each time.
 */
import { readFileSync } from "node:fs";

export interface ProcessStat {
  /** The main thread's state, as a letter: Z is a zombie, D waits in the kernel. */
  readonly state: string;
  /** In ticks since boot: a reused pid has another one. */
  readonly startTime: string;
}

/** A process as it is now, or undefined when there is none of that pid. */
export function processStat(pid: number): ProcessStat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command in parentheses may hold anything; fields are counted after its end, where the third one begins.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const [state, startTime] = [fields[0], fields[19]];
    return state === undefined || startTime === undefined ? undefined : { state, startTime };
  } catch {
    return undefined;
  }
}
