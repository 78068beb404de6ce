/**
 * Descriptors that this process was given by whoever started it, and would hand on to whatever it starts: a shell's lock file, say,
 * which then stays locked for as long as we live.
 *
 * What Node and we open is close-on-exec, so the others are those. Only the lowest sixteen, and what follows them without a gap, cannot
 * be told apart: Node marks them when it starts (libuv, uv_disable_stdio_inheritance), and so they go no further.
 */
import { readdirSync } from "node:fs";
import { check, close, closeOnExec, isKeptAcrossExec } from "./libc.ts";

/** Closes them from this number on. To be called before anybody else's code has run in this process. @throws Error where there is no /proc */
export function closeInherited(from: number): void {
  for (const fd of inheritedDescriptors(from)) close(fd);
}

/** Keeps them, but for this process alone. @throws SystemError; Error where there is no /proc */
export function keepInherited(from: number): void {
  for (const fd of inheritedDescriptors(from)) check("fcntl F_SETFD", closeOnExec(fd));
}

function inheritedDescriptors(from: number): number[] {
  return readdirSync("/proc/self/fd")
    .map(Number)
    .filter((fd) => fd >= from && isKeptAcrossExec(fd));
}
