/**
 * A connection to a manager that stays: started where none runs, and asked once, so that it counts us.
 *
 * Used by the command line and the library alike: the machine's service is started where it is installed, for a
 * manager of our own would live, and end, with the session or the unit that it was started from.
 */
import { ErofsNbdError } from "../errors.ts";
import { ControlClient } from "./client.ts";
import type { RunDir } from "./run-dir.ts";
import { connectOrStart, untilAnswered } from "./start-manager.ts";
import { type StartTeller, startService } from "./system-service.ts";

/** How many managers may end under our hands. */
const MAX_ATTEMPTS = 3;

const SILENT: StartTeller = { detail: () => {}, note: () => {}, waiting: () => {} };

/**
 * The manager, started if need be; `signal` ends the waiting for it.
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
 * The manager that runs and stays; undefined where none does. Starts none.
 * @throws ErofsNbdError ERR_PERMISSION, ERR_RUN_DIR, ERR_CONTROL: it hangs
 */
export async function findRunning(
  runDir: RunDir,
  tell: StartTeller = SILENT,
): Promise<ControlClient | undefined> {
  return greet(runDir, await ControlClient.connect(runDir), tell);
}

/**
 * A manager that has answered once counts us and stays. One that was just ending, because it had nothing to do, may
 * have taken the connection and cut it: undefined, and nothing was asked of it yet. @throws ErofsNbdError
 * ERR_CONTROL: it hangs
 */
export async function greet(
  runDir: RunDir,
  client: ControlClient | undefined,
  tell: StartTeller = SILENT,
): Promise<ControlClient | undefined> {
  if (client === undefined) return undefined;
  // Whether the connection was cut; a manager that hangs does not cut it.
  let isGone = false;
  const hello = client.request("hello", {}).catch((error: unknown) => {
    isGone = (error as { code?: unknown }).code === "ERR_CONTROL";
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
