/**
 * The run directory: where it is, who may use it, and who has it.
 *
 * Used by managers and by whoever talks to them. The lock itself is in run-lock.ts.
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
  /** Where metrics are offered; see metrics-server.ts. */
  readonly metricsSocket: string;
  readonly logFile: string;
  /** The log before this one. */
  readonly oldLogFile: string;
  /** One record per device. */
  readonly devices: string;
  /** One journal per link. */
  readonly journals: string;
  /** One socket per worker, for the manager after this one. */
  readonly workers: string;
  /** Locks of mounts in the making; see cli/mount-lock.ts. */
  readonly mounts: string;
}

/**
 * `--run-dir`, EROFS_NBD_RUN_DIR, systemd's RUNTIME_DIRECTORY, or the default, in this order. The third is a manager's; where a
 * command finds it, it may as well be that of the service which the command is run by: that counts if a manager has been there.
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

/** `sun_path` holds 107 bytes and a NUL (unix(7)); Node cuts a longer path off in silence. */
const MAX_SOCKET_PATH_BYTES = 107;
/** Workers' sockets are named by pid and start time, which is in hundredths of seconds since the boot: of thirty years here. */
const LONGEST_WORKER_SOCKET = "4194304-99999999999.sock";

/** @throws ErofsNbdError when the control socket's path is too long for a socket */
export function checkSocketPath(runDir: RunDir): void {
  if (Buffer.byteLength(join(runDir.workers, LONGEST_WORKER_SOCKET)) <= MAX_SOCKET_PATH_BYTES) return;
  throw new ErofsNbdError(
    "ERR_RUN_DIR",
    `cannot use run directory ${runDir.path}: its path is too long for a socket in it`,
    { hint: "name one with a shorter path with --run-dir" },
  );
}

/** As libc says it, which is not loaded for this: most commands do without. */
const effectiveUid = (): number => process.geteuid?.() ?? -1;

/**
 * Makes the directory (0700) if need be, and refuses one that others could tamper with: it, what is in it, or the way to
 * it. @throws ErofsNbdError
 */
export function prepareRunDir(runDir: RunDir): void {
  checkSocketPath(runDir);
  try {
    refuseForeignWay(runDir);
    mkdirSync(runDir.path, { recursive: true, mode: 0o700 });
    // Where a part of the way was missing, somebody may have made it meanwhile.
    refuseForeignWay(runDir);
    const found = lstatSync(runDir.path);
    if (!found.isDirectory() || found.uid !== effectiveUid())
      throw refused(runDir, "it belongs to somebody else");
    // Whatever its mode is now: it may have been another one.
    refusePlanted(runDir);
    if ((found.mode & 0o077) !== 0) {
      closeToOthers(runDir);
      refusePlanted(runDir);
    }
    for (const path of [runDir.devices, runDir.journals, runDir.workers, runDir.mounts]) {
      mkdirSync(path, { recursive: true, mode: 0o700 });
      const made = lstatSync(path);
      if (!made.isDirectory() || made.uid !== effectiveUid())
        throw refused(runDir, `«${basename(path)}» in it is no directory of ours`);
      chmodSync(path, 0o700);
    }
  } catch (error) {
    throw asRunDirError(runDir, error);
  }
}

/**
 * For whoever talks to a manager: refuses a directory in which somebody else could answer in its place, and have root mount
 * what they like. One that is not there is nobody's. @throws ErofsNbdError
 */
export function refuseForeignManager(runDir: RunDir): void {
  try {
    refuseForeignWay(runDir);
    const found = look(runDir.path);
    if (found === undefined) return;
    if (found.isSymbolicLink()) throw refused(runDir, "it is a symbolic link");
    if (!isTrusted(found)) throw refused(runDir, "it belongs to somebody else");
    if (found.isDirectory() && (found.mode & 0o022) !== 0)
      throw refused(runDir, "others may write into it, and what answers there could be anybody's");
    // From a time when others could write there.
    const socket = look(runDir.controlSocket);
    if (socket !== undefined && !isTrusted(socket))
      throw refused(runDir, `somebody else has left «${basename(runDir.controlSocket)}» there`);
  } catch (error) {
    // Not for us to look into: connecting will say so, and to whom it is open.
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
/** As many as the kernel follows (path_resolution(7)). */
const MOST_LINKS = 40;

const isTrusted = ({ uid }: Stats): boolean => uid === 0 || uid === effectiveUid();

/**
 * Whoever may rename a directory above could put another one in its place, at any time. So each belongs to root or to us, and
 * where others may write, entries are protected from each other (sticky); so does each symbolic link, and the way to where it leads.
 */
function refuseForeignWay(runDir: RunDir, from: string = dirname(resolve(runDir.path)), links = 0): void {
  if (links > MOST_LINKS) throw refused(runDir, "too many symbolic links lead there");
  for (let path = from; ; path = dirname(path)) {
    const found = look(path);
    if (found !== undefined) {
      if (!isTrusted(found)) throw refused(runDir, `${path} above it belongs to somebody else`);
      if (found.isSymbolicLink())
        refuseForeignWay(runDir, resolve(dirname(path), readlinkSync(path)), links + 1);
      else if ((found.mode & STICKY) === 0) refuseWritable(runDir, path, found);
    }
    if (path === dirname(path)) return;
  }
}

function refuseWritable(runDir: RunDir, path: string, { mode, gid }: Stats): void {
  if ((mode & 0o002) !== 0) throw refused(runDir, `anybody may write ${path} above it`);
  const isOurGroup = gid === 0 || gid === process.getegid?.();
  if ((mode & 0o020) !== 0 && !isOurGroup) throw refused(runDir, `group ${gid} may write ${path} above it`);
}

/** What is at a path, not followed; undefined: nothing, or no directory leads there. */
function look(path: string): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

/** While others could write into it, now or once, they may have left what we would take for ours. */
function refusePlanted(runDir: RunDir): void {
  const planted = readdirSync(runDir.path).find((name) => {
    const found = lstatSync(join(runDir.path, name));
    return found.uid !== effectiveUid() || found.isSymbolicLink();
  });
  if (planted !== undefined)
    throw refused(runDir, `somebody has left «${planted}» there, which is no manager's`);
}

/** Takes the rights of others away, but never from a directory that serves somebody else too, such as /tmp. */
function closeToOthers(runDir: RunDir): void {
  const { path: _, ...places } = runDir;
  const ours = Object.values(places).map((path: string) => basename(path));
  const foreign = readdirSync(runDir.path).find((name) => !ours.includes(name));
  if (foreign !== undefined) {
    throw new ErofsNbdError(
      "ERR_RUN_DIR",
      `cannot use run directory ${runDir.path}: others may enter it, and it holds «${foreign}»`,
      { hint: "name a directory of its own with --run-dir" },
    );
  }
  chmodSync(runDir.path, 0o700);
}

/** The errnos that need words: «EROFS» above all would be taken for the file system of the image. */
const WHY_NOT: Record<string, string> = {
  EROFS: "its file system is read-only",
  EACCES: "permission denied",
  EPERM: "permission denied",
  ENOENT: "a directory above it does not exist",
  ENOTDIR: "a part of the path is not a directory",
  ENOSPC: "no space is left",
  ELOOP: "a symbolic link is in the way",
};

/** Why a file could not be made or written, in words. */
export function explainFileError(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code ?? String(error);
  return WHY_NOT[code] ?? code;
}

/** An error about the run directory, in one line. */
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

/** Whether a manager, alive or dead, has noted devices there. @throws ErofsNbdError */
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

/** The pid that the lock file names; 0: none. Takes no lock. */
export function holderPid(runDir: RunDir): number {
  try {
    return Number(readFileSync(runDir.lockFile, "utf8").trim()) || 0;
  } catch {
    // Not there, or not for us to read: nobody that we could name.
    return 0;
  }
}

/** The process that has, or last had, the run directory, if there still is one of that pid. Takes no lock itself. */
export function lockHolder(runDir: RunDir): number | undefined {
  const pid = holderPid(runDir);
  return pid > 0 && existsSync(`/proc/${pid}`) ? pid : undefined;
}

/** The manager's log, for appending. @throws ErofsNbdError */
export function openLog(runDir: RunDir): number {
  try {
    const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW } = constants;
    return openSync(runDir.logFile, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
  } catch (error) {
    throw asRunDirError(runDir, error);
  }
}
