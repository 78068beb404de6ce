/**
 * Finds users other than root who may change a program: by its owner or mode, or by those of a directory above it.
 *
 * Used by install-units for Node.js and erofs-nbd, before root runs them as a service. Changes nothing.
 */
import { lstatSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";

/** A path that other users may write, and the remedy. */
export interface Weakness {
  readonly path: string;
  /** "user 1000", "group 50" or "any user". */
  readonly who: string;
  readonly remedy: string;
}

const GROUP_MAY_WRITE = 0o020;
const ANYBODY_MAY_WRITE = 0o002;
const STICKY = 0o1000;

/**
 * The first weak path from a file up to `top`. Undefined if there is none, and if the file does not exist or lies
 * outside of `top`. Root and the owner of `top` are trusted; in a root directory below a prefix that owner is the user
 * who builds it.
 */
export function findWeakness(path: string, top: string): Weakness | undefined {
  let place: string;
  let root: string;
  try {
    root = realpathSync(top);
    place = realpathSync(path);
  } catch {
    return undefined;
  }
  if (!place.startsWith(join(root, "/"))) return undefined;
  const { uid, gid } = lstatSync(root);
  const trusted = { uids: new Set([0, uid]), gids: new Set([0, gid]) };
  for (let at = place; ; at = dirname(at)) {
    const weakness = weaknessOf(at, trusted);
    if (weakness !== undefined || at === root) return weakness;
  }
}

function weaknessOf(
  path: string,
  trusted: { readonly uids: ReadonlySet<number>; readonly gids: ReadonlySet<number> },
): Weakness | undefined {
  const found = lstatSync(path);
  if (!trusted.uids.has(found.uid))
    return {
      path,
      who: `user ${found.uid}`,
      remedy: "install Node.js and erofs-nbd where only root may write, not in a home directory",
    };
  // In a sticky directory other users can neither remove nor rename root's files.
  if (found.isDirectory() && (found.mode & STICKY) !== 0) return undefined;
  if ((found.mode & ANYBODY_MAY_WRITE) !== 0)
    return { path, who: "any user", remedy: `remove the permission: chmod o-w ${path}` };
  if ((found.mode & GROUP_MAY_WRITE) !== 0 && !trusted.gids.has(found.gid))
    return { path, who: `group ${found.gid}`, remedy: `remove the permission: chmod g-w ${path}` };
  return undefined;
}
