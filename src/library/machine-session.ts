/**
 * Connections of this process to the machine's managers: one for each run directory, shared by all devices that need it.
 *
 * Used by `attach`, `find` and `list`. Loads what talks to managers when it is first called.
 */
import type { RunDir } from "../control/run-dir.ts";
import { Session } from "./session.ts";

export interface SessionLease {
  readonly session: Session;
  /** The session is not needed for this any more; the last one closes it. */
  end(): void;
}

/** Sessions by run directory, and how many leases each has. */
const sessions = new Map<string, { readonly session: Session; users: number }>();

/** `option`: the run directory that the program names. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export async function leaseSession(option: string | undefined): Promise<SessionLease> {
  const [runDir, { findRunning, reachManager }, { hasService }] = await Promise.all([
    readRunDir(option),
    import("../control/reach-manager.ts"),
    import("../control/system-service.ts"),
  ]);
  const finder = {
    reach: () => reachManager(runDir),
    find: () => findRunning(runDir),
    // Whoever stopped the service would find it started again.
    mayStart: () => !hasService(runDir),
  };
  const shared = sessions.get(runDir.path) ?? { session: new Session(finder), users: 0 };
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

/** As {@link leaseSession}; undefined where no manager runs and none has left devices behind: none is started for a look. */
export async function leaseForLook(option: string | undefined): Promise<SessionLease | undefined> {
  const [runDir, { hasRecords }, { findRunning }] = await Promise.all([
    readRunDir(option),
    import("../control/run-dir.ts"),
    import("../control/reach-manager.ts"),
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
