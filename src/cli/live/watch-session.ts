/**
 * The session of `status --watch`: with the manager that is running now, and with each one that follows it.
 *
 * Used by watch.ts and live.ts. A manager is started at the beginning only, if records exist; later one is waited for.
 */
import { ControlClient } from "../../control/client.ts";
import type { Target } from "../../control/protocol.ts";
import type { RunDir } from "../../control/run-dir.ts";
import { Session } from "../../control/session.ts";
import { ErofsNbdError, hasCode, notAttached } from "../../errors.ts";
import { findManager, runDirOf } from "../connection.ts";
import type { CliContext } from "../context.ts";

const LOOK_AGAIN_MS = 500;

export class WatchSession extends Session {
  readonly #runDir: RunDir;

  private constructor(runDir: RunDir) {
    super(refuse, { pollMs: LOOK_AGAIN_MS });
    this.#runDir = runDir;
  }

  /** A session that is connected if there is a manager. @throws ErofsNbdError ERR_NOT_ATTACHED if a target needs one */
  static async open(context: CliContext, target: Target | null): Promise<WatchSession> {
    const session = new WatchSession(runDirOf(context));
    const manager = await findManager(context);
    if (manager === undefined && target !== null) throw notAttached("watch the target");
    if (manager !== undefined) await session.use(manager).catch(ignoreGone);
    return session;
  }

  /** Connects to the next manager, once it listens. False if `stop` aborts before. */
  next(stop: AbortSignal): Promise<boolean> {
    return this.search(() => ControlClient.connect(this.#runDir), stop);
  }
}

/** A manager that has gone away by now is followed by the next one, as any other. */
function ignoreGone(error: unknown): void {
  if (!hasCode(error, "ERR_CONTROL")) throw error;
}

/** Requests do not connect, so that none can start a manager. */
async function refuse(): Promise<never> {
  throw new ErofsNbdError("ERR_CONTROL", "cannot ask the manager: it is not running");
}
