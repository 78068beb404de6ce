/**
 * A connection to a manager that stays: started where none runs, and asked once, so that it counts us.
 *
 * Used by the command line and the library alike: the machine's service is started where it is installed, for a manager of our own
 * would live, and end, with the session or the unit that it was started from.
 */
import { ErofsNbdError } from "../errors.ts";
import { ControlClient } from "./control-client.ts";
import type { RunDir } from "./run-dir.ts";
import { type StartTeller, startService } from "./system-service.ts";

/** How many managers may end under our hands. */
const MAX_ATTEMPTS = 3;

const SILENT: StartTeller = { detail: () => {}, note: () => {} };

/** The manager, started if need be. @throws ErofsNbdError ERR_CONTROL, ERR_RUN_DIR */
export async function reachManager(runDir: RunDir, tell: StartTeller = SILENT): Promise<ControlClient> {
  const running = await findRunning(runDir);
  if (running !== undefined) return running;
  await startService(runDir, tell);
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
    const client = await greet(await ControlClient.connectOrStart(runDir));
    if (client !== undefined) return client;
  }
  throw new ErofsNbdError("ERR_CONTROL", "Cannot talk to a manager: each one ended before it answered", {
    hint: `its log is ${runDir.logFile}`,
  });
}

/** The manager that runs and stays; undefined where none does. Starts none. @throws ErofsNbdError ERR_PERMISSION, ERR_RUN_DIR */
export async function findRunning(runDir: RunDir): Promise<ControlClient | undefined> {
  return greet(await ControlClient.connect(runDir));
}

/**
 * A manager that has answered once counts us and stays. One that was just ending, because it had nothing to do, may
 * have taken the connection and cut it: undefined, and nothing was asked of it yet.
 */
export async function greet(client: ControlClient | undefined): Promise<ControlClient | undefined> {
  try {
    await client?.request("hello", {});
    return client;
  } catch (error) {
    client?.close();
    if ((error as { code?: unknown }).code === "ERR_CONTROL") return undefined;
    throw error;
  }
}
