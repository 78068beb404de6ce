/**
 * The run directory: its path, its files, and the process that holds its lock.
 *
 * Used by managers and their clients. The lock itself is in run-lock.ts.
 */
import {
  chmodSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  type Stats,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { ErofsNbdError } from "../errors.ts";

export const DEFAULT_RUN_DIR = "/run/erofs-nbd";

const LOCK_FILE = "manager.lock";

export interface RunDir {
  readonly path: string;
  readonly controlSocket: string;
  readonly lockFile: string;
  /** Serves metrics; see manager/metrics/metrics-server.ts. */
  readonly metricsSocket: string;
  readonly logFile: string;
  /** The log before this one. */
  readonly oldLogFile: string;
  /** One record per device. */
  readonly devices: string;
  /** One journal per link. */
  readonly journals: string;
  /** One socket per worker, for the next manager. */
  readonly workers: string;
  /** Locks of mounts in progress; see cli/mount/mount-lock.ts. */
  readonly mounts: string;
}

/**
 * `--run-dir`, EROFS_NBD_RUN_DIR, systemd's RUNTIME_DIRECTORY, or the default, in this order. The third is meant for a
 * manager. For a command it may be the directory of another service that runs the command, so it counts only if a
 * manager has used it.
 */
export function chooseRunDir(
  option: string | undefined,
  environment: NodeJS.ProcessEnv = process.env,
  role: "manager" | "client" = "client",
): RunDir {
  const ofService = environment["RUNTIME_DIRECTORY"]?.split(":")[0] || undefined;
  const isManagers =
    ofService !== undefined && (role === "manager" || existsSync(join(ofService, LOCK_FILE)));
  const path =
    option ?? (environment["EROFS_NBD_RUN_DIR"] || undefined) ?? (isManagers ? ofService : DEFAULT_RUN_DIR);
  return {
    path,
    controlSocket: join(path, "control.sock"),
    lockFile: join(path, LOCK_FILE),
    metricsSocket: join(path, "metrics.sock"),
    logFile: join(path, "manager.log"),
    oldLogFile: join(path, "manager.log.1"),
    devices: join(path, "devices"),
    journals: join(path, "journals"),
    workers: join(path, "workers"),
    mounts: join(path, "mounts"),
  };
}

/** `sun_path` holds 107 bytes and a NUL (unix(7)); Node.js truncates a longer path silently. */
const MAX_SOCKET_PATH_BYTES = 107;
/** Worker sockets are named by pid and start time, in hundredths of seconds since boot; here for 30 years of uptime. */
const LONGEST_WORKER_SOCKET = "4194304-99999999999.sock";

/** @throws ErofsNbdError ERR_RUN_DIR if the path is too long for the sockets in it */
export function checkSocketPath(runDir: RunDir): void {
  if (Buffer.byteLength(join(runDir.workers, LONGEST_WORKER_SOCKET)) <= MAX_SOCKET_PATH_BYTES) return;
  throw new ErofsNbdError(
    "ERR_RUN_DIR",
    `cannot use run directory ${runDir.path}: its path is too long for a socket in it`,
    { hint: "name one with a shorter path with --run-dir" },
  );
}

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
    mkdirSync(runDir.path, { recursive: true, mode: 0o700 });
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
      mkdirSync(path, { recursive: true, mode: 0o700 });
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
    if ((error as NodeJS.ErrnoException).code === "EACCES") return;
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
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
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

/** Errnos as text. Especially EROFS would be mistaken for the file system of the image. */
const WHY_NOT: Record<string, string> = {
  EROFS: "its file system is read-only",
  EACCES: "permission denied",
  EPERM: "permission denied",
  ENOENT: "a directory above it does not exist",
  ENOTDIR: "a part of the path is not a directory",
  ENOSPC: "no space is left",
  ELOOP: "a symbolic link is in the way",
};

/** Why a file could not be created or written, as text. */
export function explainFileError(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  return WHY_NOT[code] ?? code;
}

/** Turns any error into one about the run directory. */
export function asRunDirError(runDir: RunDir, error: unknown): ErofsNbdError {
  if (error instanceof ErofsNbdError) return error;
  return new ErofsNbdError(
    "ERR_RUN_DIR",
    `cannot use run directory ${runDir.path}: ${explainFileError(error)}`,
    {
      hint: "run as root, or name a writable directory with --run-dir",
      cause: error,
    },
  );
}

/** Whether there are records of devices, of a live or dead manager. @throws ErofsNbdError */
export function hasRecords(runDir: RunDir): boolean {
  try {
    return readdirSync(runDir.devices).some((name) => name.endsWith(".json"));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw new ErofsNbdError("ERR_RUN_DIR", `cannot read ${runDir.devices}: ${explainFileError(error)}`, {
      hint: "run as root, or name the run directory of your own manager with --run-dir",
      cause: error,
    });
  }
}

/** The pid in the lock file; 0 if there is none. Does not lock. */
export function holderPid(runDir: RunDir): number {
  try {
    return Number(readFileSync(runDir.lockFile, "utf8").trim()) || 0;
  } catch {
    // Missing or not readable: no pid to return.
    return 0;
  }
}

/** The process that holds or last held the lock, if a process of that pid exists. Does not lock. */
export function lockHolder(runDir: RunDir): number | undefined {
  const pid = holderPid(runDir);
  return pid > 0 && existsSync(`/proc/${pid}`) ? pid : undefined;
}

/** Opens the manager's log for appending. @throws ErofsNbdError */
export function openLog(runDir: RunDir): number {
  try {
    const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW } = constants;
    return openSync(runDir.logFile, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
  } catch (error) {
    throw asRunDirError(runDir, error);
  }
}
