/**
 * Connects to a manager that will not end by itself meanwhile: starts one if none is running, and sends a first
 * request, so that it counts the connection.
 *
 * Used by command line and library. Prefers the system service where it is installed: a manager started directly would
 * end with the session or unit that it was started from.
 */
import { ErofsNbdError, hasCode } from "../../errors.ts";
import { ControlClient } from "../client.ts";
import type { RunDir } from "../run-dir.ts";
import { connectOrStart, untilAnswered } from "./start-manager.ts";
import { type StartTeller, startService } from "./system-service.ts";

/** Limit of attempts with managers that end before they answer. */
const MAX_ATTEMPTS = 3;

const SILENT: StartTeller = { detail: () => {}, note: () => {}, waiting: () => {} };

/**
 * The manager, started if none is running; `signal` ends the wait.
 * @throws ErofsNbdError ERR_CONTROL, ERR_RUN_DIR, ERR_INTERRUPTED
 */
export async function reachManager(
  runDir: RunDir,
  tell: StartTeller = SILENT,
  signal?: AbortSignal,
): Promise<ControlClient> {
  const running = await findRunning(runDir, tell);
  if (running !== undefined) return running;
  await startService(runDir, tell, signal);
  const waiting = (text: string): void => tell.waiting(text);
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
    const client = await greet(runDir, await connectOrStart(runDir, { waiting, signal }), tell);
    if (client !== undefined) return client;
  }
  throw new ErofsNbdError("ERR_CONTROL", "cannot talk to a manager: each one ended before it answered", {
    hint: `its log is ${runDir.logFile}`,
  });
}

/**
 * The running manager; undefined if there is none. Starts none.
 * @throws ErofsNbdError ERR_PERMISSION, ERR_RUN_DIR; ERR_CONTROL if it hangs
 */
export async function findRunning(
  runDir: RunDir,
  tell: StartTeller = SILENT,
): Promise<ControlClient | undefined> {
  return greet(runDir, await ControlClient.connect(runDir), tell);
}

/**
 * Sends the first request. A manager that has answered counts the connection and stays. One that was about to end may
 * have accepted the connection and closed it: then the result is undefined. @throws ErofsNbdError ERR_CONTROL if it
 * hangs
 */
export async function greet(
  runDir: RunDir,
  client: ControlClient | undefined,
  tell: StartTeller = SILENT,
): Promise<ControlClient | undefined> {
  if (client === undefined) return undefined;
  // Whether the connection was closed; a manager that hangs does not close it.
  let isGone = false;
  const hello = client.request("hello", {}).catch((error: unknown) => {
    isGone = hasCode(error, "ERR_CONTROL");
    throw error;
  });
  try {
    await untilAnswered(runDir, hello, { waiting: (text) => tell.waiting(text) });
    return client;
  } catch (error) {
    client.close();
    if (isGone) return undefined;
    throw error;
  }
}
