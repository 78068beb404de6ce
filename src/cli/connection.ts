/**
 * How a command reaches the manager of its run directory.
 *
 * Used by all commands that talk to a manager. A query never starts a manager that would have nothing to do: only an
 * attach, or records that a dead manager has left, are reasons to start one.
 */
import { resolve } from "node:path";
import type { ControlClient } from "../control/client.ts";
import { findRunning, reachManager } from "../control/reach/reach-manager.ts";
import { chooseRunDir, hasRecords, type RunDir } from "../control/run-dir.ts";
import { ErofsNbdError, invalidValue } from "../errors.ts";
import type { CliContext } from "./context.ts";

/** `sun_path` without its terminating NUL (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;

/**
 * The run directory as an absolute path, because the manager has another working directory. @throws ErofsNbdError
 * ERR_RUN_DIR
 */
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

/** The running manager, or one started to adopt a dead manager's devices. Undefined when nothing is attached. */
export async function findManager(context: CliContext): Promise<ControlClient | undefined> {
  const runDir = runDirOf(context);
  const running = await findRunning(runDir, context);
  if (running !== undefined || !hasRecords(runDir)) return running;
  context.detail("no manager is running, and a former one has left devices: starting a manager");
  return startManager(context);
}

/**
 * The manager, started if none is running: by the system service where it is installed, else by this command. `signal`
 * ends the wait.
 * @throws ErofsNbdError ERR_CONTROL, ERR_RUN_DIR, ERR_INTERRUPTED
 */
export async function startManager(context: CliContext, signal?: AbortSignal): Promise<ControlClient> {
  return reachManager(runDirOf(context), context, signal);
}
