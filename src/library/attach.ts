/**
 * `attach`: the command of that name for programs, through the machine's manager, which is started where none runs.
 *
 * All devices of a process that are attached in one run directory share one connection. Everything heavy is loaded when
 * it is first called.
 */

import { ErofsNbdError } from "../errors.ts";
import type { AttachParams, DeviceEvent } from "../manager/control-protocol.ts";
import { AttachedDevice } from "./attached-device.ts";
import { type AttachOptions, type AttachSource, toAttachParams } from "./options.ts";
import { Session } from "./session.ts";

export interface MachineAttachOptions extends AttachOptions {
  /** Of the manager; default: EROFS_NBD_RUN_DIR, systemd's RUNTIME_DIRECTORY, or /run/erofs-nbd. */
  readonly runDir?: string;
}

/** Sessions by run directory, and how many devices need each. */
const sessions = new Map<string, { readonly session: Session; users: number }>();

/**
 * Attaches an image, or a source of your own, and returns the device when it can be read. Only root may.
 *
 * The device is the machine's, like one of the command line: it outlives this program, and `erofs-nbd status` shows it.
 *
 * @throws ErofsNbdError ERR_PERMISSION, ERR_IMAGE, ERR_SOURCE, ERR_CONTROL; ControlError with the manager's own reason
 * @example
 * const device = await attach("image.erofs");
 * device.on("failover", ({ level, stallMs }) => console.log(`${level}: reads stood still for ${stallMs} ms`));
 * console.log(device.device, (await device.status()).state);
 * await device.detach();
 */
export async function attach(
  source: AttachSource,
  options: MachineAttachOptions = {},
): Promise<AttachedDevice> {
  if (process.geteuid?.() !== 0) {
    throw new ErofsNbdError("ERR_PERMISSION", "Cannot attach: only root may", {
      hint: "the kernel wants CAP_SYS_ADMIN for this",
    });
  }
  const params = toAttachParams(source, options);
  await checkBeforehand(params);
  const lease = await leaseSession(options.runDir);
  try {
    return await attachThrough(lease.session, params, lease.end);
  } catch (error) {
    lease.end();
    throw error;
  }
}

/** The attach itself, for every kind of manager. `letGo` is called when the device no longer needs the session. @internal */
export async function attachThrough(
  session: Session,
  params: AttachParams,
  letGo: () => void,
): Promise<AttachedDevice> {
  // Events that come in one go with the answer are heard before whoever waits for the answer runs.
  const early: DeviceEvent[] = [];
  const remember = (event: DeviceEvent): number => early.push(event);
  session.on("event", remember);
  try {
    const { device: status, notes } = await session.request("attach", params);
    const device = new AttachedDevice(session, status, notes, letGo);
    const begin = early.findLastIndex((one) => one.event === "attached" && one.device === device.device);
    // After the caller has had its turn to listen.
    setImmediate(() => {
      if (begin >= 0) for (const event of early.slice(begin + 1)) device.hear(event);
    });
    return device;
  } finally {
    session.off("event", remember);
  }
}

/** What can be refused without a manager starts none. */
async function checkBeforehand({ image, module, blockSizeBytes }: AttachParams): Promise<void> {
  if (module === undefined) {
    const { checkImage } = await import("../manager/image-inspection.ts");
    checkImage(image, blockSizeBytes, false);
    return;
  }
  const [{ openModule }, { closeSync }] = await Promise.all([
    import("../source/open-module.ts"),
    import("node:fs"),
  ]);
  closeSync(openModule(image).fd);
}

async function leaseSession(option: string | undefined): Promise<{ session: Session; end: () => void }> {
  const [{ chooseRunDir }, { findRunning, reachManager }, { hasService }, { resolve }] = await Promise.all([
    import("../manager/run-dir.ts"),
    import("../manager/reach-manager.ts"),
    import("../manager/system-service.ts"),
    import("node:path"),
  ]);
  const runDir = chooseRunDir(resolve(chooseRunDir(option).path));
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
