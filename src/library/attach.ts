/**
 * `attach`: the command of that name for programs, through the machine's manager, which is started where none runs.
 *
 * Everything heavy is loaded when it is first called.
 */

import { ErofsNbdError } from "../errors.ts";
import type { AttachParams } from "../manager/control-protocol.ts";
import { AttachedDevice } from "./attached-device.ts";
import { hearEarly } from "./early-events.ts";
import { leaseSession } from "./machine-session.ts";
import { type AttachOptions, type AttachSource, toAttachParams } from "./options.ts";
import type { Session } from "./session.ts";

export interface MachineAttachOptions extends AttachOptions {
  /** Of the manager; default: EROFS_NBD_RUN_DIR, systemd's RUNTIME_DIRECTORY, or /run/erofs-nbd. */
  readonly runDir?: string;
}

/**
 * Attaches an image, or a source of your own, and returns the device when it can be read. Only root may.
 *
 * The device is the machine's, like one of the command line: it outlives this program, and `erofs-nbd status` shows it.
 *
 * @throws ErofsNbdError ERR_PERMISSION, ERR_IMAGE, ERR_SOURCE, ERR_CONTROL, or with the manager's own reason (a ControlError)
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
  const [device] = await hearEarly(session, async () => {
    const { device: status, notes } = await session.request("attach", params);
    return [new AttachedDevice(session, status, notes, letGo)];
  });
  return device as AttachedDevice;
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
