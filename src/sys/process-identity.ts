/**
 * Which process it is, and whether it still is: a pid alone may be another's by the time it is used.
 */
import { processStat } from "./process-stat.ts";

/** A process, safe against reuse of its pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: a reused pid has another one. */
  readonly startTime: string;
}

/** A process as it is now, or undefined when there is none of that pid. */
export function identifyProcess(pid: number): ProcessIdentity | undefined {
  const stat = processStat(pid);
  return stat === undefined ? undefined : { pid, startTime: stat.startTime };
}

/** Whether exactly that process is still there (a zombie counts as gone). */
export function isAlive(identity: ProcessIdentity): boolean {
  const stat = processStat(identity.pid);
  return stat?.startTime === identity.startTime && stat.state !== "Z";
}
