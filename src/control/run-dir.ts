/**
 * The run directory: its path, its files, and the process that holds its lock.
 *
 * Used by managers and their clients. Who may use it is checked in run-dir-trust.ts; the lock itself is in run-lock.ts.
 */
import { constants, existsSync, openSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
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

const DENIED = "permission denied";
/** Errnos as text. Especially EROFS would be mistaken for the file system of the image. */
const WHY_NOT: Record<string, string> = {
  EROFS: "its file system is read-only",
  EACCES: DENIED,
  EPERM: DENIED,
  ENOTDIR: "a part of the path is not a directory",
  ENOSPC: "no space is left",
  ELOOP: "a symbolic link is in the way",
  EEXIST: "a file is in its place",
};

/** Why a file could not be created or written, as text. */
export function explainFileError(error: unknown): string {
  const { code = String(error), path } = error as NodeJS.ErrnoException;
  if (code !== "ENOENT") return WHY_NOT[code] ?? code;
  // Kernel file systems, such as that of /proc, say this of a name that they do not have.
  if (path !== undefined && existsSync(dirname(path))) return `${dirname(path)} allows no such entry`;
  return "a directory above it does not exist";
}

/** Turns any error into one about the run directory. */
export function asRunDirError(runDir: RunDir, error: unknown): ErofsNbdError {
  if (error instanceof ErofsNbdError) return error;
  const why = explainFileError(error);
  const hint =
    why === DENIED
      ? "run as root, or name a writable directory with --run-dir"
      : "name another directory with --run-dir";
  return new ErofsNbdError("ERR_RUN_DIR", `cannot use run directory ${runDir.path}: ${why}`, {
    hint,
    cause: error,
  });
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
