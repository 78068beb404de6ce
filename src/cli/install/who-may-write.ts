/**
 * Who else may change a file that root is to run: its owner, its group or everybody, there or at a directory above it.
 *
 * Asked by install-units about Node and the program before it makes them a service of root's. It changes nothing.
 */
import { lstatSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";

/** A place that somebody may write, and what to do about it. */
export interface Weakness {
  readonly path: string;
  /** «user 1000», «group 50», «anybody». */
  readonly who: string;
  readonly remedy: string;
}

const GROUP_MAY_WRITE = 0o020;
const ANYBODY_MAY_WRITE = 0o002;
const STICKY = 0o1000;

/**
 * The first weak place from a file up to `top`; undefined when there is none, and for what is not there, or leads out of `top`: then it is not
 * this tree's. Trusted are root and the owner of `top`, who is root in a machine that runs, and whoever builds an image elsewhere.
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
      remedy: "install Node and erofs-nbd where root alone may write, not in a home directory",
    };
  // What is root's in a sticky directory, others neither remove nor rename.
  if (found.isDirectory() && (found.mode & STICKY) !== 0) return undefined;
  if ((found.mode & ANYBODY_MAY_WRITE) !== 0)
    return { path, who: "anybody", remedy: `take that right away: chmod o-w ${path}` };
  if ((found.mode & GROUP_MAY_WRITE) !== 0 && !trusted.gids.has(found.gid))
    return { path, who: `group ${found.gid}`, remedy: `take that right away: chmod g-w ${path}` };
  return undefined;
}
