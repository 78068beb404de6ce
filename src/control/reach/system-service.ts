/**
 * systemd: whether it runs, whether the manager's unit is installed, and starting it.
 *
 * Used by reach-manager.ts before it starts a manager itself, and by install-units.
 */
import { execFile } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../../errors.ts";
import { DEFAULT_RUN_DIR, type RunDir } from "../run-dir.ts";

export const SERVICE = "erofs-nbd.service";
/** Not /etc, where `systemctl mask` creates its link and fails if a unit file exists. */
export const UNIT_DIRECTORY = "/usr/local/lib/systemd/system";
export const ADMIN_UNIT_DIRECTORY = "/etc/systemd/system";

/** The directories of unit files, in the order of systemd.unit(5). */
const UNIT_DIRECTORIES = [
  ADMIN_UNIT_DIRECTORY,
  "/run/systemd/system",
  UNIT_DIRECTORY,
  "/usr/lib/systemd/system",
];
/** Poll interval of the service's state. */
const LOOK_MS = 1000;
/**
 * Time limit for the start job in systemd's queue. It may wait for other jobs, one of which may run this command itself
 * and would then wait forever. There is no limit once the service is starting: systemd ends it if its manager makes no
 * progress (TimeoutStartSec=, which the manager extends).
 */
const QUEUED_MS = 30_000;
/** After this time the wait is reported, once. */
const NOTICE_MS = 4000;

/** Messages for a user who waits for a manager. */
export interface StartTeller {
  /** Printed with --verbose. */
  detail(text: string): void;
  note(text: string): void;
  /** What is waited for; see start-manager.ts. */
  waiting(text: string): void;
}

/** How systemctl ended. */
export interface SystemctlEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Whether systemd runs this machine (sd_booted(3)). */
export function hasSystemd(): boolean {
  return existsSync("/run/systemd/system");
}

/** Whether the service manages this run directory: it is installed and not masked. */
export function hasService(runDir: RunDir): boolean {
  return runDir.path === DEFAULT_RUN_DIR && hasSystemd() && isInstalled();
}

/**
 * Starts the service if it manages this run directory, and returns when it is ready. False if it is not installed, is
 * masked, or does not start: the caller then starts a manager itself. @throws ErofsNbdError ERR_INTERRUPTED
 */
export async function startService(
  runDir: RunDir,
  tell: StartTeller,
  signal?: AbortSignal,
): Promise<boolean> {
  if (!hasService(runDir)) return false;
  tell.detail(`no manager is running: starting ${SERVICE}`);
  const why = await startUnit(tell, { signal });
  if (why === undefined) return true;
  tell.note(`${SERVICE} does not start (${why}): starting a manager without it`);
  return false;
}

/**
 * Starts the unit. Returns why it did not start, or undefined. The times are for tests.
 * @throws ErofsNbdError ERR_INTERRUPTED
 */
export async function startUnit(
  tell: Pick<StartTeller, "waiting">,
  {
    signal,
    queuedMs = QUEUED_MS,
    noticeMs = NOTICE_MS,
    lookMs = LOOK_MS,
  }: { signal?: AbortSignal | undefined; queuedMs?: number; noticeMs?: number; lookMs?: number } = {},
): Promise<string | undefined> {
  const giveUp = new AbortController();
  let end: SystemctlEnd | undefined;
  let isOver = false;
  const over = systemctl(["--no-ask-password", "start", SERVICE], giveUp.signal).then((found) => {
    end = found;
    isOver = true;
  });
  try {
    let waitedMs = 0;
    let queuedForMs = 0;
    for (;;) {
      await Promise.race([over, sleep(lookMs, undefined, { signal, ref: false }).catch(() => {})]);
      if (isOver) break;
      if (signal?.aborted === true)
        throw new ErofsNbdError("ERR_INTERRUPTED", `cannot start ${SERVICE}: interrupted`);
      if (waitedMs < noticeMs && waitedMs + lookMs >= noticeMs)
        tell.waiting(`waiting for ${SERVICE} to start; look with 'systemctl status ${SERVICE}'`);
      waitedMs += lookMs;
      // Counted in polls, not by the clock: on a busy machine both the service and the polls take longer.
      queuedForMs = (await isQueued()) ? queuedForMs + lookMs : 0;
      if (queuedForMs >= queuedMs) return "its start waits for other units";
    }
  } finally {
    giveUp.abort();
  }
  if (end?.exitCode === 0) return undefined;
  return end?.stderr.trim().split("\n")[0] || `systemctl ended with ${end?.signal ?? end?.exitCode}`;
}

/** Whether the start job is still queued, so that no progress can be observed. */
async function isQueued(): Promise<boolean> {
  const end = await systemctl(["show", "--property=ActiveState", "--value", SERVICE]);
  return !["activating", "active", "reloading", "deactivating"].includes(end?.stdout.trim() ?? "");
}

/** Runs systemctl to its end, or until the signal aborts; undefined if it cannot be run. */
export function systemctl(words: readonly string[], signal?: AbortSignal): Promise<SystemctlEnd | undefined> {
  return new Promise((resolve) => {
    const child = execFile("systemctl", [...words], (error, stdout, stderr) => {
      signal?.removeEventListener("abort", stop);
      if (typeof error?.code === "string") resolve(undefined);
      else resolve({ exitCode: child.exitCode, signal: child.signalCode, stdout, stderr });
    });
    const stop = (): void => void child.kill();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Whether the root directory `top` has the manager's unit, not masked. */
export function isInstalled(top = "/"): boolean {
  const path = UNIT_DIRECTORIES.map((directory) => join(top, directory, SERVICE)).find(
    (one) => realPath(one) !== undefined,
  );
  // A masked unit is a link to /dev/null.
  return path !== undefined && realPath(path) !== "/dev/null";
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}
