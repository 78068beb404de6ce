/**
 * Where files may be installed: within the prefix, on a writable file system, and units on a file system that is
 * mounted when systemd starts.
 *
 * Used by installation.ts before it writes. Changes nothing.
 */
import { accessSync, constants, lstatSync, realpathSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { ErofsNbdError, hasCode } from "../../errors.ts";

/** The target of a dangling link. */
export const NOWHERE = "nowhere";

export function targetOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return NOWHERE;
  }
}

/** The lowest existing directory above a path; the search ends at the prefix. */
export function nearestDirectory(prefix: string, path: string): string {
  const top = resolve(prefix);
  let above = dirname(path);
  while (above !== top && !isThere(above)) above = dirname(above);
  return above;
}

function isThere(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch {
    // Any other error shows when the file itself is inspected.
    return false;
  }
}

/**
 * The path of a file under the prefix. @throws ErofsNbdError ERR_BAD_ARGUMENT if a symbolic link leads out of the
 * prefix
 */
export function placeOf(prefix: string, path: string, what: "write" | "remove"): string {
  const place = join(resolve(prefix), path);
  const stray = strayAbove(prefix, path);
  if (stray === undefined) return place;
  throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot ${what} ${place}: ${stray}`, {
    hint: "put a directory there, or a relative link that stays inside",
  });
}

/**
 * The symbolic link that leads out of the prefix, as text: `etc -> /etc` in a root directory would lead into this
 * system.
 */
export function strayAbove(prefix: string, path: string): string | undefined {
  const top = resolve(prefix);
  const above = nearestDirectory(top, join(top, path));
  if (above === top) return undefined;
  const real = targetOf(above);
  const isInside = join(real, "/").startsWith(join(realpathSync(top), "/"));
  return isInside ? undefined : `${above} leads to ${real}, out of ${top}`;
}

/** The reason if the file system is read-only. Asks the kernel, because mount flags do not tell everything. */
export function readOnlyOf(prefix: string, path: string): string | undefined {
  try {
    // The prefix itself may not exist yet.
    accessSync(nearestDirectory("/", join(resolve(prefix), path)), constants.W_OK);
    return undefined;
  } catch (error) {
    // Other errors are reported when the file is written.
    return hasCode(error, "EROFS") ? `${dirname(path)} is read-only` : undefined;
  }
}

/** The reason if fstab mounts a directory after systemd has read its units; /usr and /etc are mounted before. */
export function mountedLater(prefix: string, path: string): string | undefined {
  const deviceOf = (name: string): number | undefined =>
    statSync(nearestDirectory("/", join(resolve(prefix), name)), { throwIfNoEntry: false })?.dev;
  const isEarly = [deviceOf("/usr/x"), deviceOf("/etc/x")].includes(deviceOf(path));
  return isEarly ? undefined : `${dirname(path)} is on a file system of its own`;
}
