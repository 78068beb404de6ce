/**
 * The machine's service manager, as far as a command needs it: is there one, is the manager's unit installed, start it.
 *
 * connection.ts asks before it starts a manager of its own, install-units before it writes. Only systemd.
 */
import { existsSync, realpathSync } from "node:fs";
import { DEFAULT_RUN_DIR, type RunDir } from "../manager/run-dir.ts";
import type { CliContext } from "./context.ts";
import { type ProgramEnd, runProgram } from "./mount-program.ts";
import { SERVICE, UNIT_DIRECTORY } from "./service-files.ts";

/** Where a unit may be, in the order of systemd.unit(5). */
const UNIT_DIRECTORIES = [UNIT_DIRECTORY, "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
/** Longer than a manager takes that has hundreds of devices to look after; then we start one ourselves. */
const START_PATIENCE_MS = 30_000;

/** Whether systemd runs this machine (sd_booted(3)). */
export function hasSystemd(): boolean {
  return existsSync("/run/systemd/system");
}

/**
 * Starts the service, if it is what would manage this run directory, and returns when it is ready. False where it is not
 * installed, masked, or does not start: then the caller starts a manager.
 */
export async function startService(context: CliContext, runDir: RunDir): Promise<boolean> {
  if (runDir.path !== DEFAULT_RUN_DIR || !hasSystemd() || !isInstalled()) return false;
  context.detail(`no manager runs: starting ${SERVICE}`);
  const patience = new AbortController();
  const timer = setTimeout(() => patience.abort(), START_PATIENCE_MS);
  const end = await systemctl(["--no-ask-password", "start", SERVICE], patience.signal);
  clearTimeout(timer);
  if (end?.exitCode === 0) return true;
  const why = end?.stderr.trim().split("\n")[0] || `systemctl ended with ${end?.signal ?? end?.exitCode}`;
  context.note(`${SERVICE} does not start (${why}): starting a manager without it`);
  return false;
}

/** Runs systemctl to its end; undefined where there is none. */
export async function systemctl(
  words: readonly string[],
  stop?: AbortSignal,
): Promise<ProgramEnd | undefined> {
  try {
    return await runProgram("systemctl", words, stop);
  } catch {
    return undefined;
  }
}

function isInstalled(): boolean {
  const path = UNIT_DIRECTORIES.map((directory) => `${directory}/${SERVICE}`).find(
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
