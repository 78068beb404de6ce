/**
 * The sessions of this process with the machine's managers: one per run directory, shared by all devices.
 *
 * Used by `attach`, `find` and `list`. Loads the client at the first call.
 */
import type { RunDir } from "../control/run-dir.ts";
import { Session } from "../control/session.ts";

export interface SessionLease {
  readonly session: Session;
  /** Ends the lease; the last lease closes the session. */
  end(): void;
}

/** Sessions by run directory, with their number of leases. */
const sessions = new Map<string, { readonly session: Session; users: number }>();

/** @param option the run directory that the program has chosen. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export async function leaseSession(option: string | undefined): Promise<SessionLease> {
  const [runDir, { findRunning, reachManager }, { hasService }] = await Promise.all([
    readRunDir(option),
    import("../control/reach/reach-manager.ts"),
    import("../control/reach/system-service.ts"),
  ]);
  const open = (): Session =>
    new Session(() => reachManager(runDir), {
      // A service that an administrator has stopped is not started again.
      afterLoss: { find: () => findRunning(runDir), mayStart: () => !hasService(runDir) },
    });
  const shared = sessions.get(runDir.path) ?? { session: open(), users: 0 };
  sessions.set(runDir.path, shared);
  shared.users += 1;
  let hasEnded = false;
  const end = (): void => {
    if (hasEnded) return;
    hasEnded = true;
    shared.users -= 1;
    if (shared.users > 0) return;
    sessions.delete(runDir.path);
    shared.session.close();
  };
  return { session: shared.session, end };
}

/**
 * Like {@link leaseSession}, but undefined if no manager is running and none has left records: a query starts no
 * manager.
 */
export async function leaseForLook(option: string | undefined): Promise<SessionLease | undefined> {
  const [runDir, { hasRecords }, { findRunning }] = await Promise.all([
    readRunDir(option),
    import("../control/run-dir.ts"),
    import("../control/reach/reach-manager.ts"),
  ]);
  if (!sessions.has(runDir.path) && !hasRecords(runDir)) {
    const client = await findRunning(runDir);
    client?.close();
    if (client === undefined) return undefined;
  }
  return leaseSession(option);
}

async function readRunDir(option: string | undefined): Promise<RunDir> {
  const [{ chooseRunDir }, { resolve }] = await Promise.all([
    import("../control/run-dir.ts"),
    import("node:path"),
  ]);
  return chooseRunDir(resolve(chooseRunDir(option).path));
}
