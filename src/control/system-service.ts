/**
 * The machine's service manager, as far as we need it: is there one, is the manager's unit installed, start it.
 *
 * reach-manager.ts asks before it starts a manager of its own, install-units before it writes. Only systemd.
 */
import { execFile } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../errors.ts";
import { DEFAULT_RUN_DIR, type RunDir } from "./run-dir.ts";

export const SERVICE = "erofs-nbd.service";
/** Not the administrator's: `systemctl mask` puts a link there, and refuses where a unit is in its way. */
export const UNIT_DIRECTORY = "/usr/local/lib/systemd/system";
export const ADMIN_UNIT_DIRECTORY = "/etc/systemd/system";

/** Where a unit may be, in the order of systemd.unit(5). */
const UNIT_DIRECTORIES = [
  ADMIN_UNIT_DIRECTORY,
  "/run/systemd/system",
  UNIT_DIRECTORY,
  "/usr/lib/systemd/system",
];
/** How often to look how far the service is. */
const LOOK_MS = 1000;
/**
 * How long the job may wait for its turn: other jobs that it must follow, or a command that is run by such a job
 * itself and would wait for ever. A service that is being started has no limit here. systemd ends it when its manager
 * does not get on (TimeoutStartSec=, which the manager extends).
 */
const QUEUED_MS = 30_000;
/** After this the waiting is mentioned, once. */
const NOTICE_MS = 4000;

/** What is worth telling whoever waits for a manager. */
export interface StartTeller {
  /** For those who asked for more. */
  detail(text: string): void;
  note(text: string): void;
  /** That something takes its time; see start-manager.ts. */
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

/** Whether the service is what manages this run directory: installed, and not masked. */
export function hasService(runDir: RunDir): boolean {
  return runDir.path === DEFAULT_RUN_DIR && hasSystemd() && isInstalled();
}

/**
 * Starts the service, if it is what would manage this run directory, and returns when it is ready. False where it is
 * not installed, masked, or does not start: then the caller starts a manager. @throws ErofsNbdError ERR_INTERRUPTED
 */
export async function startService(
  runDir: RunDir,
  tell: StartTeller,
  signal?: AbortSignal,
): Promise<boolean> {
  if (!hasService(runDir)) return false;
  tell.detail(`no manager runs: starting ${SERVICE}`);
  const why = await startUnit(tell, { signal });
  if (why === undefined) return true;
  tell.note(`${SERVICE} does not start (${why}): starting a manager without it`);
  return false;
}

/**
 * Has the unit started; why it is not, or undefined. The times are for tests.
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
      // Counted in looks, not by the clock: on a busy machine both the service and these looks take longer.
      queuedForMs = (await isQueued()) ? queuedForMs + lookMs : 0;
      if (queuedForMs >= queuedMs) return "its start waits for other units";
    }
  } finally {
    giveUp.abort();
  }
  if (end?.exitCode === 0) return undefined;
  return end?.stderr.trim().split("\n")[0] || `systemctl ended with ${end?.signal ?? end?.exitCode}`;
}

/** Whether the unit's start has not begun, so that nothing of it can be seen to get on. */
async function isQueued(): Promise<boolean> {
  const end = await systemctl(["show", "--property=ActiveState", "--value", SERVICE]);
  return !["activating", "active", "reloading", "deactivating"].includes(end?.stdout.trim() ?? "");
}

/** Runs systemctl to its end, or until the signal aborts; undefined where it cannot be run. */
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

/** Whether the system below `top` has a unit of the manager, and has it not masked. */
export function isInstalled(top = "/"): boolean {
  const path = UNIT_DIRECTORIES.map((directory) => join(top, directory, SERVICE)).find(
    (one) => realPath(one) !== undefined,
  );
  // A masked unit leads there: its administrator wants no service.
  return path !== undefined && realPath(path) !== "/dev/null";
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}
