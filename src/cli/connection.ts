/**
 * From a command to the manager: the run directory, whether anything is there, and the connection.
 *
 * Looking never starts a manager where there is nothing for it to do: only an attach, or records that a dead manager
 * left behind, are reasons to.
 */
import { resolve } from "node:path";
import type { ControlClient } from "../control/client.ts";
import { findRunning, reachManager } from "../control/reach-manager.ts";
import { chooseRunDir, hasRecords, type RunDir } from "../control/run-dir.ts";
import { ErofsNbdError, invalidValue } from "../errors.ts";
import type { CliContext } from "./context.ts";

/** `sun_path` without its terminating NUL (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;

/** The run directory, absolute, because the manager does not run in this directory. @throws ErofsNbdError ERR_RUN_DIR */
export function runDirOf(context: CliContext, role: "manager" | "client" = "client"): RunDir {
  if (context.runDirOption === "") {
    throw invalidValue("--run-dir", "", "a directory");
  }
  const runDir = chooseRunDir(resolve(chooseRunDir(context.runDirOption, process.env, role).path));
  if (Buffer.byteLength(runDir.controlSocket) > MAX_SOCKET_PATH_BYTES) {
    throw new ErofsNbdError(
      "ERR_RUN_DIR",
      `cannot use run directory ${runDir.path}: its socket's path is longer than ${MAX_SOCKET_PATH_BYTES} bytes`,
      { hint: "choose a shorter one with --run-dir" },
    );
  }
  return runDir;
}

/** The manager that runs, or one that is started to take over a dead one's devices; undefined: nothing is attached. */
export async function findManager(context: CliContext): Promise<ControlClient | undefined> {
  const runDir = runDirOf(context);
  const running = await findRunning(runDir, context);
  if (running !== undefined || !hasRecords(runDir)) return running;
  context.detail("no manager runs and one has left devices behind: starting a manager");
  return startManager(context);
}

/**
 * The manager, started if need be: the machine's service where there is one, else one of our own. `signal` ends the
 * waiting for it.
 * @throws ErofsNbdError ERR_CONTROL, ERR_RUN_DIR, ERR_INTERRUPTED
 */
export async function startManager(context: CliContext, signal?: AbortSignal): Promise<ControlClient> {
  return reachManager(runDirOf(context), context, signal);
}
