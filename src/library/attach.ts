/**
 * `attach` for programs: through the machine's manager, which is started if none is running.
 *
 * Used by programs, and by NbdManager through attachThrough(). Loads most code at the first call.
 */

import type { AttachParams } from "../control/protocol.ts";
import type { Session } from "../control/session.ts";
import { ATTACHING, ErofsNbdError, rootRequired } from "../errors.ts";
import { AttachedDevice } from "./attached-device.ts";
import { hearEarly } from "./early-events.ts";
import { leaseSession } from "./machine-session.ts";
import { DIRECTORY } from "./option-checks.ts";
import { type AttachOptions, type AttachSource, toAttachParams } from "./options.ts";

export interface MachineAttachOptions extends AttachOptions {
  /**
   * The manager's run directory; default: EROFS_NBD_RUN_DIR, systemd's RUNTIME_DIRECTORY if a manager uses it, or
   * /run/erofs-nbd.
   */
  readonly runDir?: string;
}

/**
 * Attaches an image or a custom source, and returns the device when it can be read. Must be run as root.
 *
 * The device is like one of the command line: it outlives this program, and `erofs-nbd status` shows it.
 *
 * @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_PERMISSION, ERR_INTERRUPTED, ERR_IMAGE, ERR_SOURCE, ERR_CONTROL;
 * ControlError with the manager's reason
 * @example
 * const device = await attach("image.erofs");
 * device.on("failover", ({ level, stallMs }) => console.log(`${level}: reads waited for ${stallMs} ms`));
 * console.log(device.device, (await device.status()).state);
 * await device.detach();
 */
export async function attach(
  source: AttachSource,
  options: MachineAttachOptions = {},
): Promise<AttachedDevice> {
  const params = toAttachParams(source, options, { runDir: DIRECTORY });
  refuseAborted(options.signal);
  if (process.geteuid?.() !== 0) throw rootRequired(ATTACHING);
  // Checked before a manager is started.
  const image = await openBeforehand(params);
  try {
    const lease = await leaseSession(options.runDir);
    try {
      return await attachOpened(lease.session, image, lease.end, options.signal);
    } catch (error) {
      lease.end();
      throw error;
    }
  } finally {
    image.close();
  }
}

/**
 * The same through a given session. `letGo` is called when the device no longer needs the session.
 * @internal
 */
export async function attachThrough(
  session: Session,
  params: AttachParams,
  letGo: () => void,
  signal?: AbortSignal,
): Promise<AttachedDevice> {
  refuseAborted(signal);
  const image = await openBeforehand(params);
  try {
    return await attachOpened(session, image, letGo, signal);
  } finally {
    image.close();
  }
}

async function attachOpened(
  session: Session,
  { params, fd }: OpenedBeforehand,
  letGo: () => void,
  signal?: AbortSignal,
): Promise<AttachedDevice> {
  refuseAborted(signal);
  const [device] = await hearEarly(session, async () => {
    const { device: status, notes } = await session.request("attach", params, fd);
    return [new AttachedDevice(session, status, { notes, isOwn: true }, letGo)];
  });
  if (signal?.aborted === true) await undo(device as AttachedDevice, signal);
  return device as AttachedDevice;
}

function refuseAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true)
    throw new ErofsNbdError("ERR_INTERRUPTED", "cannot attach: it was aborted", { cause: signal.reason });
}

/** The manager finishes an attach that has begun, so the device is detached afterwards. */
async function undo(device: AttachedDevice, { reason }: AbortSignal): Promise<never> {
  const whyNot = await device.detach().then(
    () => undefined,
    (error: Error) => error.message,
  );
  device.close();
  const rest = whyNot === undefined ? "" : `, and ${device.device} is still attached: ${whyNot}`;
  throw new ErofsNbdError("ERR_INTERRUPTED", `cannot attach: it was aborted${rest}`, { cause: reason });
}

/**
 * The parameters of the request, and the image's descriptor that is sent with it. Workers open a module by its path.
 */
interface OpenedBeforehand {
  readonly params: AttachParams;
  readonly fd: number | undefined;
  close(): void;
}

/** @throws ErofsNbdError ERR_IMAGE, ERR_SOURCE */
async function openBeforehand(params: AttachParams): Promise<OpenedBeforehand> {
  const { image, module, blockSizeBytes } = params;
  const { closeSync } = await import("node:fs");
  if (module === undefined) {
    const { openChecked } = await import("../manager/image-inspection.ts");
    const { fd } = openChecked(image, blockSizeBytes, false);
    return { params, fd, close: () => closeSync(fd) };
  }
  const [{ openModule }, { pathView }] = await Promise.all([
    import("../source/open-module.ts"),
    import("../source/path-view.ts"),
  ]);
  closeSync(openModule(image).fd);
  const seen = { ...params, module: { ...module, view: pathView() } };
  return { params: seen, fd: undefined, close: () => {} };
}
