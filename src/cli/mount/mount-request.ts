/**
 * A mount to be made, and its words for mount(8).
 *
 * Used for mounts and remounts.
 */
import type { CliContext } from "../context.ts";
import type { MountOptions } from "./mount-options.ts";
import type { ProgramEnd } from "./mount-program.ts";

/** A mount to be made. */
export interface MountRequest {
  readonly image: string;
  readonly directory: string;
  readonly options: MountOptions;
  /** Check everything, but do not mount. */
  readonly isFake?: boolean;
  /** Do not write mount(8)'s table of user space options (/run/mount/utab). */
  readonly withoutTable?: boolean;
  /** The mount namespace, a path or a process id; default: this process's. */
  readonly namespace?: string | undefined;
  /**
   * If the same image is mounted at the directory already, do nothing instead of stacking. Ignored with `namespace`.
   */
  readonly keepMounted?: boolean;
}

/** mount(8)'s exit code for a mount that succeeded but could not be written to its table. */
const TABLE_FAILED = 16;
/** -i: without helpers, so that mount.erofs of erofs-utils is not called. */
const MOUNT_WORDS = ["-i", "-t", "erofs"];

/** Whether it is mounted, in the table of mounts or not. */
export const hasMounted = ({ exitCode }: ProgramEnd): boolean => exitCode === 0 || exitCode === TABLE_FAILED;

/** `extraNodes`: the devices with further data of the file system, in its order. */
export function mountWords(
  { options, withoutTable, namespace }: MountRequest,
  node: string,
  directory: string,
  extraNodes: readonly string[] = [],
): string[] {
  return [
    ...MOUNT_WORDS,
    ...(withoutTable ? ["-n"] : []),
    ...(namespace === undefined ? [] : ["-N", namespace]),
    "-o",
    [...options.forMount, ...extraNodes.map((extra) => `device=${extra}`)].join(","),
    node,
    directory,
  ];
}

/** Passes on what mount(8) wrote to stderr although it succeeded. */
export function relay(context: CliContext, { stderr }: ProgramEnd): void {
  for (const line of stderr.split("\n")) if (line.trim() !== "") context.note(line.trim());
}
