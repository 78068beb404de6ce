/**
 * Identifies a process by pid and start time: a pid alone may be reused by the time it is used.
 */
import { processStat } from "./process-stat.ts";

/** A process, independent of reuse of its pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat. */
  readonly startTime: string;
}

/** The process that has this pid now; undefined if there is none. */
export function identifyProcess(pid: number): ProcessIdentity | undefined {
  const stat = processStat(pid);
  return stat === undefined ? undefined : { pid, startTime: stat.startTime };
}

/** Whether exactly that process still runs. A zombie does not. */
export function isAlive(identity: ProcessIdentity): boolean {
  const stat = processStat(identity.pid);
  return stat?.startTime === identity.startTime && stat.state !== "Z";
}
