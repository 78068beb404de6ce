/**
 * Descriptors that this process has inherited and would pass on to its children. A shell's lock file, for example,
 * would stay locked as long as one of them runs.
 *
 * Node and this program open everything close-on-exec, so inherited descriptors are those without the flag. Exceptions
 * are the lowest sixteen, and those that follow them without a gap: Node sets the flag on them when it starts (libuv,
 * uv_disable_stdio_inheritance), so they are not passed on anyway.
 */
import { readdirSync } from "node:fs";
import { check } from "./libc/bind.ts";
import { close, closeOnExec, isKeptAcrossExec } from "./libc/files.ts";

/** Closes them from this number on. Call it before foreign code runs in this process. @throws Error without /proc */
export function closeInherited(from: number): void {
  for (const fd of inheritedDescriptors(from)) close(fd);
}

/** Keeps them open in this process only. @throws SystemError; Error without /proc */
export function keepInherited(from: number): void {
  for (const fd of inheritedDescriptors(from)) check("fcntl F_SETFD", closeOnExec(fd));
}

function inheritedDescriptors(from: number): number[] {
  return readdirSync("/proc/self/fd")
    .map(Number)
    .filter((fd) => fd >= from && isKeptAcrossExec(fd));
}
