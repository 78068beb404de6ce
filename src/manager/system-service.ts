/**
 * The machine's service manager, as far as we need it: is there one, is the manager's unit installed, start it.
 *
 * reach-manager.ts asks before it starts a manager of its own, install-units before it writes. Only systemd.
 */
import { execFile } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
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
/** Longer than a manager takes that has hundreds of devices to look after; then we start one ourselves. */
const START_PATIENCE_MS = 30_000;

/** What is worth telling whoever waits for a manager. */
export interface StartTeller {
  /** For those who asked for more. */
  detail(text: string): void;
  note(text: string): void;
}

/** How systemctl ended. */
export interface SystemctlEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
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
 * Starts the service, if it is what would manage this run directory, and returns when it is ready. False where it is not
 * installed, masked, or does not start: then the caller starts a manager.
 */
export async function startService(runDir: RunDir, tell: StartTeller): Promise<boolean> {
  if (!hasService(runDir)) return false;
  tell.detail(`no manager runs: starting ${SERVICE}`);
  const end = await systemctl(["--no-ask-password", "start", SERVICE], START_PATIENCE_MS);
  if (end?.exitCode === 0) return true;
  const why = end?.stderr.trim().split("\n")[0] || `systemctl ended with ${end?.signal ?? end?.exitCode}`;
  tell.note(`${SERVICE} does not start (${why}): starting a manager without it`);
  return false;
}

/** Runs systemctl to its end, or until the patience (ms, 0 is endless) is over; undefined where it cannot be run. */
export function systemctl(words: readonly string[], patienceMs = 0): Promise<SystemctlEnd | undefined> {
  return new Promise((resolve) => {
    const child = execFile("systemctl", [...words], { timeout: patienceMs }, (error, _, stderr) => {
      if (typeof error?.code === "string") resolve(undefined);
      else resolve({ exitCode: child.exitCode, signal: child.signalCode, stderr });
    });
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
