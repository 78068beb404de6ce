/**
 * Scheduling priorities (nice values) of the manager and of its workers.
 *
 * The manager raises its own, and workers would inherit that. Each change is best effort: it fails if the process has
 * exited, or without the right to raise a priority, and then all processes run alike.
 */
import { getPriority, setPriority } from "node:os";

/** The nice value that this process was started with. */
const INITIAL_NICENESS = getPriority();
/** What is added to it for work that must not slow down workers that serve. */
const BACKGROUND_OFFSET = 5;
/** Nice value of a manager: it gets the processor before other programs when a worker dies. */
const MANAGER_NICENESS = -10;

/** For a manager's own process. A priority that is already higher stays. */
export function raisePriority(): void {
  trySet(0, () => Math.min(getPriority(), MANAGER_NICENESS));
}

/** Gives a process the priority that this one was started with. */
export function resetPriority(pid: number): void {
  trySet(pid, () => INITIAL_NICENESS);
}

/** Gives a process a lower priority than workers that serve. */
export function lowerPriority(pid: number): void {
  trySet(pid, () => INITIAL_NICENESS + BACKGROUND_OFFSET);
}

function trySet(pid: number, niceness: () => number): void {
  try {
    setPriority(pid, niceness());
  } catch {
    // ESRCH: it has exited. EACCES: no right to do this.
  }
}
