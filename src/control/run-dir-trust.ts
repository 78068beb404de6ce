/**
 * Creates a run directory, and rejects one that other users could manipulate: itself, its contents or its path.
 *
 * Used by managers before they use it (prepareRunDir) and by clients before they connect (refuseForeignManager).
 */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  type Stats,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { ErofsNbdError, hasCode } from "../errors.ts";
import { asRunDirError, checkSocketPath, type RunDir } from "./run-dir.ts";

/** Without libc's bindings, which most commands do not load. */
const effectiveUid = (): number => process.geteuid?.() ?? -1;

/**
 * Creates the directory (0700) if it does not exist. Rejects a directory that other users could manipulate: itself, its
 * contents or its path. @throws ErofsNbdError
 */
export function prepareRunDir(runDir: RunDir): void {
  checkSocketPath(runDir);
  try {
    refuseForeignWay(runDir);
    makeDirectories(runDir.path, 0o700);
    // Another user may have created a missing part of the path meanwhile.
    refuseForeignWay(runDir);
    const found = lstatSync(runDir.path);
    if (!found.isDirectory() || found.uid !== effectiveUid())
      throw refused(runDir, "it belongs to another user");
    // Regardless of the current mode, which may have been different before.
    refusePlanted(runDir);
    if ((found.mode & 0o077) !== 0) {
      closeToOthers(runDir);
      refusePlanted(runDir);
    }
    for (const path of [runDir.devices, runDir.journals, runDir.workers, runDir.mounts]) {
      makeDirectories(path, 0o700);
      const made = lstatSync(path);
      if (!made.isDirectory() || made.uid !== effectiveUid())
        throw refused(runDir, `'${basename(path)}' in it is not a directory of this user`);
      chmodSync(path, 0o700);
    }
  } catch (error) {
    throw asRunDirError(runDir, error);
  }
}

/**
 * For clients: rejects a directory in which another user could impersonate the manager, and so make root mount any
 * image. Accepts a directory that does not exist. @throws ErofsNbdError
 */
export function refuseForeignManager(runDir: RunDir): void {
  try {
    refuseForeignWay(runDir);
    const found = look(runDir.path);
    if (found === undefined) return;
    if (found.isSymbolicLink()) throw refused(runDir, "it is a symbolic link");
    if (!isTrusted(found)) throw refused(runDir, "it belongs to another user");
    if (found.isDirectory() && (found.mode & 0o022) !== 0)
      throw refused(runDir, "other users may write to it, and could impersonate the manager");
    // The socket may be from a time when other users could write there.
    const socket = look(runDir.controlSocket);
    if (socket !== undefined && !isTrusted(socket))
      throw refused(runDir, `'${basename(runDir.controlSocket)}' in it belongs to another user`);
  } catch (error) {
    // The directory may not be searched: connecting reports that.
    if (hasCode(error, "EACCES")) return;
    throw asRunDirError(runDir, error);
  }
}

function refused(runDir: RunDir, why: string): ErofsNbdError {
  return new ErofsNbdError("ERR_RUN_DIR", `cannot use run directory ${runDir.path}: ${why}`, {
    hint: "name another one with --run-dir",
  });
}

const STICKY = 0o1000;
/** The kernel's limit (path_resolution(7)). */
const MOST_LINKS = 40;

const isTrusted = ({ uid }: Stats): boolean => uid === 0 || uid === effectiveUid();

/**
 * A user who may rename a directory of the path could replace it at any time. Therefore each one must belong to root or
 * to this user, and must not be writable for other users unless it is sticky. The same holds for symbolic links and
 * their targets.
 */
function refuseForeignWay(runDir: RunDir, from: string = dirname(resolve(runDir.path)), links = 0): void {
  if (links > MOST_LINKS) throw refused(runDir, "its path has too many symbolic links");
  for (let path = from; ; path = dirname(path)) {
    const found = look(path);
    if (found !== undefined) {
      if (!isTrusted(found)) throw refused(runDir, `${path} above it belongs to another user`);
      if (found.isSymbolicLink())
        refuseForeignWay(runDir, resolve(dirname(path), readlinkSync(path)), links + 1);
      else if ((found.mode & STICKY) === 0) refuseWritable(runDir, path, found);
    }
    if (path === dirname(path)) return;
  }
}

function refuseWritable(runDir: RunDir, path: string, { mode, gid }: Stats): void {
  if ((mode & 0o002) !== 0) throw refused(runDir, `any user may write to ${path} above it`);
  const isOurGroup = gid === 0 || gid === process.getegid?.();
  if ((mode & 0o020) !== 0 && !isOurGroup)
    throw refused(runDir, `group ${gid} may write to ${path} above it`);
}

/** lstat(2); undefined if the path does not exist. */
function look(path: string): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw error;
  }
}

/** Other users may have left files or links there while they could write to the directory. */
function refusePlanted(runDir: RunDir): void {
  const planted = readdirSync(runDir.path).find((name) => {
    const found = lstatSync(join(runDir.path, name));
    return found.uid !== effectiveUid() || found.isSymbolicLink();
  });
  if (planted !== undefined) throw refused(runDir, `'${planted}' in it was not created by a manager`);
}

/** Removes the permissions of other users, but never from a directory with other files in it, such as /tmp. */
function closeToOthers(runDir: RunDir): void {
  const { path: _, ...places } = runDir;
  const ours = Object.values(places).map((path: string) => basename(path));
  const foreign = readdirSync(runDir.path).find((name) => !ours.includes(name));
  if (foreign !== undefined) {
    throw new ErofsNbdError(
      "ERR_RUN_DIR",
      `cannot use run directory ${runDir.path}: other users may enter it, and it contains '${foreign}'`,
      { hint: "name a directory of its own with --run-dir" },
    );
  }
  chmodSync(runDir.path, 0o700);
}

/**
 * Creates a directory and the missing ones above it, one by one. `mode` is subject to the umask. Returns those that
 * were missing, from the top.
 *
 * Node.js has this as an option of mkdir, `recursive`. That one never returns where mkdir(2) says ENOENT in a directory
 * that exists, as in /proc, and reports ENOENT where the file system is read-only.
 * @throws the error of mkdir(2)
 */
export function makeDirectories(path: string, mode: number): string[] {
  const wanted = resolve(path);
  try {
    mkdirSync(wanted, { mode });
    return [wanted];
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST" && isDirectory(wanted)) return [];
    if (code !== "ENOENT" || existsSync(dirname(wanted))) throw error;
  }
  const above = makeDirectories(dirname(wanted), mode);
  return [...above, ...makeDirectories(wanted, mode)];
}

const isDirectory = (path: string): boolean =>
  statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
