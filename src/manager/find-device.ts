/**
 * Finds attached devices by what a command names: an index, an identifier, an image or a mount point.
 *
 * Used by the manager for `status`, `detach`, `mounted` and `cutLinks`. What the command sees at a path comes with
 * the target (control/target.ts), because the path may lead elsewhere from the manager.
 */
import type { SeenTarget, Target } from "../control/protocol.ts";
import { ErofsNbdError, notAttached } from "../errors.ts";
import { configuringThread, indexMountedAt } from "../kernel/sysfs.ts";
import type { FileIdentity } from "../source/file-identity.ts";
import { pathView } from "../source/path-view.ts";
import type { ManagedDevice } from "../supervisor/managed-device.ts";

/** @throws ErofsNbdError ERR_NOT_ATTACHED */
export function deviceAt(devices: readonly ManagedDevice[], index: number): ManagedDevice {
  const device = devices.find((one) => one.index === index);
  if (device === undefined) throw notFound({ index });
  return device;
}

/** All devices that a target names: an image may be attached several times. */
export async function findDevices(
  devices: readonly ManagedDevice[],
  target: Target,
): Promise<ManagedDevice[]> {
  if ("index" in target) return devices.filter((device) => device.index === target.index);
  if ("identifier" in target)
    return devices.filter(({ settings }) => settings.identifier === target.identifier);
  // Former versions do not send what they see.
  const { path, seen = { view: pathView() ?? null, file: null } } = target;
  // Seen from another mount namespace or root, the path may lead to another file here.
  const isHere = seen.view !== null && seen.view === pathView();
  const mounted = isHere ? await indexMountedAt(path) : undefined;
  if (mounted !== undefined) return devices.filter((device) => device.index === mounted);
  const same = devices.filter(
    ({ image: { spec } }) => spec.type === "file" && isSeen(spec.identity, seen.file),
  );
  if (same.length > 0 || !isHere) return same;
  // The image may have been removed, or replaced, while it is attached.
  return devices.filter(
    ({ image: { spec } }) => spec.path === path && !(spec.type === "file" && spec.isHandedIn),
  );
}

/** Whether a command sees this very file or disk. A disk may have any number of device nodes. */
function isSeen({ kind, device, inode }: FileIdentity, file: SeenTarget["file"]): boolean {
  return file?.device === device && (kind === "block-device" || file.inode === inode);
}

/** The error for a target that names no device of this manager. */
export function notFound(target: Target): ErofsNbdError {
  if ("path" in target) {
    return new ErofsNbdError(
      "ERR_NOT_ATTACHED",
      `cannot find ${target.path}: it is neither an attached image nor a mount of one`,
    );
  }
  if ("identifier" in target) {
    const message = `cannot find ${target.identifier}: no attached device has this identifier`;
    return new ErofsNbdError("ERR_NOT_ATTACHED", message);
  }
  const name = `nbd${target.index}`;
  if (configuringThread(target.index) === undefined) return notAttached(`find ${name}`);
  return new ErofsNbdError("ERR_NOT_ATTACHED", `cannot find ${name}: another program attached it`, {
    hint: "detach it with the program that attached it (nbd-client -d, qemu-nbd -d, …)",
  });
}
