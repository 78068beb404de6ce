/**
 * `find` and `list`: devices that are attached already, by any program, for example before a restart of this one.
 *
 * Starts a manager only if a dead one has left records, as `erofs-nbd status` does.
 */
import type { Target } from "../control/protocol.ts";
import type { Session } from "../control/session.ts";
import { hasCode } from "../errors.ts";
import { AttachedDevice } from "./attached-device.ts";
import { hearEarly } from "./early-events.ts";
import { leaseForLook } from "./machine-session.ts";
import { checkOptions, DIRECTORY } from "./option-checks.ts";
import { toTargetText } from "./options.ts";

/**
 * An attached device: its node or index ("/dev/nbd3", "nbd3", "3", 3), the path of its image or source module, or its
 * mount point. A path may be a `file:` URL.
 */
export type DeviceTarget = string | number | URL;

export interface FindOptions {
  /**
   * The manager's run directory; default: EROFS_NBD_RUN_DIR, systemd's RUNTIME_DIRECTORY if a manager uses it, or
   * /run/erofs-nbd.
   */
  readonly runDir?: string;
}

const KINDS = { runDir: DIRECTORY };

/** Nothing was said about it, and it is not this program's to detach. */
const FOUND = { notes: [], isOwn: false };

/**
 * The named device, as `attach` would have returned it; undefined if it is not attached. If an image is attached more
 * than once, the device with the lowest index.
 *
 * @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_RUN_DIR, ERR_PERMISSION, ERR_CONTROL
 * @example
 * const device = (await find("image.erofs")) ?? (await attach("image.erofs"));
 */
export async function find(
  target: DeviceTarget,
  options: FindOptions = {},
): Promise<AttachedDevice | undefined> {
  checkOptions(options, KINDS);
  const text = toTargetText(target);
  const { readTarget } = await import("../control/target.ts");
  const meant = await readTarget(text);
  const lease = await leaseForLook(options.runDir);
  if (lease === undefined) return undefined;
  return firstOf(await lookThrough(lease.session, meant, lease.end));
}

/**
 * All devices of a manager, ordered by index. Each one keeps the program alive until it is detached or closed with
 * `close()`.
 *
 * @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_RUN_DIR, ERR_PERMISSION, ERR_CONTROL
 * @example
 * for (const device of await list()) {
 *   console.log(device.device, (await device.status()).source.uri);
 *   device.close();
 * }
 */
export async function list(options: FindOptions = {}): Promise<AttachedDevice[]> {
  checkOptions(options, KINDS);
  const lease = await leaseForLook(options.runDir);
  return lease === undefined ? [] : lookThrough(lease.session, null, lease.end);
}

/**
 * The devices that a target names, or all for null. `letGo` is called when none of them needs the session. @internal
 */
export async function lookThrough(
  session: Session,
  target: Target | null,
  letGo: () => void,
): Promise<AttachedDevice[]> {
  let users = 0;
  const leave = (): void => {
    users -= 1;
    if (users === 0) letGo();
  };
  try {
    const found = await hearEarly(session, async () => {
      const { devices } = await session.ask("status", { target });
      // A device that is being attached has no node yet.
      const there = devices.filter(({ device, index }) => device !== null && index !== null);
      users = there.length;
      return there.map((status) => new AttachedDevice(session, status, FOUND, leave));
    });
    if (found.length === 0) letGo();
    return found.sort((a, b) => a.index - b.index);
  } catch (error) {
    letGo();
    if (hasCode(error, "ERR_NOT_ATTACHED")) return [];
    throw error;
  }
}

/** The first device; closes the others. @internal */
export function firstOf([first, ...others]: readonly AttachedDevice[]): AttachedDevice | undefined {
  for (const other of others) other.close();
  return first;
}
