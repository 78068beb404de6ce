/**
 * Where the files of an installation may go: not out of the prefix, to no read-only file system, and units to one that systemd
 * sees when it starts. installation.ts asks before it writes anything; nothing is changed here.
 */
import { accessSync, constants, lstatSync, realpathSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { ErofsNbdError } from "../../errors.ts";

/** Where a link leads that leads to nothing. */
export const NOWHERE = "nowhere";

export function targetOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return NOWHERE;
  }
}

/** The lowest of the directories above a path that is there; at the top of the prefix the search ends. */
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
    // Whatever else it is shows when the file is looked at.
    return false;
  }
}

/** The path of a file under the prefix. @throws ErofsNbdError ERR_BAD_ARGUMENT where a link leads out of the prefix */
export function placeOf(prefix: string, path: string, what: "write" | "remove"): string {
  const place = join(resolve(prefix), path);
  const stray = strayAbove(prefix, path);
  if (stray === undefined) return place;
  throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot ${what} ${place}: ${stray}`, {
    hint: "put a directory there, or a relative link that stays inside",
  });
}

/** Which link on the way leads out of the prefix, in words: one of a machine's image (etc -> /etc) may lead into this one. */
export function strayAbove(prefix: string, path: string): string | undefined {
  const top = resolve(prefix);
  const above = nearestDirectory(top, join(top, path));
  if (above === top) return undefined;
  const real = targetOf(above);
  const isInside = join(real, "/").startsWith(join(realpathSync(top), "/"));
  return isInside ? undefined : `${above} leads to ${real}, out of ${top}`;
}

/** Says so where nothing can be put because the file system is read-only. The kernel is asked: it knows more than a mount's flags. */
export function readOnlyOf(prefix: string, path: string): string | undefined {
  try {
    // The prefix may have to be made as well.
    accessSync(nearestDirectory("/", join(resolve(prefix), path)), constants.W_OK);
    return undefined;
  } catch (error) {
    // Another reason is an error when it comes to writing.
    return (error as NodeJS.ErrnoException).code === "EROFS" ? `${dirname(path)} is read-only` : undefined;
  }
}

/** Says so where a directory may not be there yet when systemd reads its units: fstab mounts it later. /usr and /etc are there. */
export function mountedLater(prefix: string, path: string): string | undefined {
  const deviceOf = (name: string): number | undefined =>
    statSync(nearestDirectory("/", join(resolve(prefix), name)), { throwIfNoEntry: false })?.dev;
  const isEarly = [deviceOf("/usr/x"), deviceOf("/etc/x")].includes(deviceOf(path));
  return isEarly ? undefined : `${dirname(path)} is on a file system of its own`;
}
