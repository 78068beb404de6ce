/** The states of child processes, which are zombies until they are waited for. */
import { readdirSync, readFileSync } from "node:fs";

/** The kernel's letter for it: T is stopped, Z is dead and not yet waited for. */
export function processState(pid: number | undefined): string | undefined {
  return readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)?.[0];
}

/** Its other threads hold its sockets, too, until they are gone. */
export function isGone(pid: number | undefined): boolean {
  return processState(pid) === "Z" && readdirSync(`/proc/${pid}/task`).length === 1;
}
