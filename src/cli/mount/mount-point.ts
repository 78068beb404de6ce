/**
 * Checks the mount point and the mount namespace before anything is attached.
 *
 * Used by mount-image.ts.
 */
import { statSync } from "node:fs";
import { stat } from "node:fs/promises";
import { ErofsNbdError } from "../../errors.ts";
import type { MountOptions } from "./mount-options.ts";

/** With X-mount.mkdir mount(8) creates the mount point. */
export const mayMakeDirectory = ({ forMount }: MountOptions): boolean =>
  forMount.some((option) => /^x-mount\.mkdir(=|$)/i.test(option));

/** @throws ErofsNbdError ERR_BAD_ARGUMENT if the directory is missing or is not a directory */
export async function checkDirectory(act: string, directory: string, mayBeMissing: boolean): Promise<void> {
  let why: string | undefined;
  try {
    if (!(await stat(directory)).isDirectory()) why = `${directory} is not a directory`;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" && mayBeMissing) return;
    why = code === "ENOENT" ? `there is no directory ${directory}` : `${directory}: ${code}`;
  }
  if (why === undefined) return;
  throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot ${act}: ${why}`, {
    hint: "create the mount point first with mkdir",
  });
}

/** Only checks that the namespace exists; mount(8) enters it and reports other errors. */
export function checkNamespace(namespace: string): void {
  const path = /^\d+$/.test(namespace) ? `/proc/${namespace}/ns/mnt` : namespace;
  if (statSync(path, { throwIfNoEntry: false }) !== undefined) return;
  throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot mount in namespace ${namespace}: there is no ${path}`, {
    hint: "name a process id, or a path such as /proc/PID/ns/mnt",
  });
}
