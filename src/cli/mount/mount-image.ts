/**
 * Mounts an image: attaches it, mounts it while the node is held open, and enables autoclear. Also a remount, which
 * attaches nothing.
 *
 * Used by `erofs-nbd mount` and by the mount helper. The device is on loan to this process's connection: if the
 * connection ends before the `mounted` request, the manager detaches the device unless it is mounted. On errors this
 * process undoes what it can itself, so that nothing is left on return.
 */
import { closeSync } from "node:fs";
import { open, realpath } from "node:fs/promises";
import { resolve } from "node:path";
import type { ControlClient } from "../../control/client.ts";
import type { DeviceStatus, ImagePart } from "../../control/protocol.ts";
import { readTarget } from "../../control/target.ts";
import { ATTACHING, ErofsNbdError, hasCode } from "../../errors.ts";
import { devicePath, indexMountedAt } from "../../kernel/sysfs.ts";
import { openChecked } from "../../manager/image-inspection.ts";
import type { OpenImage } from "../../source/open-image.ts";
import { sameDevice } from "../attach/device-end.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { findManager, runDirOf, startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import type { Remembered } from "../interrupts.ts";
import { lockMountPoint } from "./mount-lock.ts";
import type { MountOptions } from "./mount-options.ts";
import { checkDirectory, checkNamespace, mayMakeDirectory } from "./mount-point.ts";
import { type ProgramEnd, programError, refuseOtherNode, runProgram } from "./mount-program.ts";

/** A mount to be made. */
export interface MountRequest {
  readonly image: string;
  readonly directory: string;
  readonly options: MountOptions;
  /** Check everything, but do not mount. */
  readonly isFake?: boolean;
  /** Do not write mount(8)'s table of user space options (/run/mount/utab). */
  readonly withoutTable?: boolean;
  /** The mount namespace, a path or a process id; default: this process's. */
  readonly namespace?: string | undefined;
  /**
   * If the same image is mounted at the directory already, do nothing instead of stacking. Ignored with `namespace`.
   */
  readonly keepMounted?: boolean;
}

/** mount(8)'s exit code for a mount that succeeded but could not be written to its table. */
const TABLE_FAILED = 16;
/** -i: without helpers, so that mount.erofs of erofs-utils is not called. */
const MOUNT_WORDS = ["-i", "-t", "erofs"];

/** A mount in progress. */
interface Job {
  readonly context: CliContext;
  readonly client: ControlClient;
  readonly interrupted: Remembered;
  readonly request: MountRequest;
  readonly act: string;
}

/**
 * Mounts, or remounts with the option `remount`. Prints only notes.
 * @throws ErofsNbdError, ControlError after everything was undone
 */
export async function mountImage(context: CliContext, request: MountRequest): Promise<void> {
  const { image: path, directory, options } = request;
  const act = `${options.isRemount ? "remount" : "mount"} ${path} at ${directory}`;
  requireRoot(ATTACHING);
  if (options.runDir !== undefined) context.useRunDir(options.runDir);
  if (request.namespace === undefined) await checkDirectory(act, directory, mayMakeDirectory(options));
  else checkNamespace(request.namespace);
  if (options.isRemount) return remount(context, request, act);
  const image = findImage(context, request);
  if (image === undefined) return;
  try {
    if (options.offsetBytes > 0) await checkOffset(act, options.offsetBytes);
    await mountOpen(context, request, image, act);
  } finally {
    closeSync(image.fd);
  }
}

/** Mounts the image, unless it is mounted there already and `keepMounted` is set. */
async function mountOpen(
  context: CliContext,
  request: MountRequest,
  image: OpenImage,
  act: string,
): Promise<void> {
  const { image: path, directory } = request;
  const mayBeThere = request.keepMounted && request.namespace === undefined && !request.isFake;
  if (!mayBeThere) return mountOnTop(context, request, image, act);
  const unlock = await lockMountPoint(runDirOf(context), directory, () =>
    context.detail(`waiting for another mount at ${directory}`),
  );
  try {
    if (!(await isMountedAlready(context, request))) return await mountOnTop(context, request, image, act);
    context.detail(`${path} is mounted at ${directory} already: nothing done`);
  } finally {
    unlock();
  }
}

async function mountOnTop(
  context: CliContext,
  request: MountRequest,
  image: OpenImage,
  act: string,
): Promise<void> {
  const { image: path, directory, options } = request;
  if (request.isFake)
    return context.detail(`${path} can be mounted at ${directory}: nothing done, as asked for`);
  const interrupted = context.interrupts.remember("undoing the mount");
  const client = await startManager(context, interrupted.signal).catch((error: unknown) => {
    interrupted.check(act);
    throw error;
  });
  try {
    interrupted.check(act);
    const params = { ...options.device, ...partOf(options), image: resolve(path), forMount: true };
    const { device, notes } = await client.request("attach", params, image.fd);
    for (const note of notes) context.note(note);
    await mountDevice({ context, client, interrupted, request, act }, device);
    context.detail(`${path} is mounted at ${directory} from ${device.device}`);
  } finally {
    client.close();
    interrupted.release();
  }
}

/** Whether the device on top of the directory is a device of the image, according to mount table and manager. */
async function isMountedAlready(context: CliContext, request: MountRequest): Promise<boolean> {
  const index = await indexMountedAt(await realpath(request.directory));
  if (index === undefined) return false;
  const client = await findManager(context);
  if (client === undefined) return false;
  try {
    const target = await readTarget(resolve(request.image));
    if ("index" in target) return false;
    const { devices } = await client.request("status", { target });
    return devices.some((device) => device.index === index);
  } catch (error) {
    if (hasCode(error, "ERR_NOT_ATTACHED")) return false;
    throw error;
  } finally {
    client.close();
  }
}

/** Opens the image; undefined if it does not exist and `nofail` is set. */
function findImage(context: CliContext, { image, options }: MountRequest): OpenImage | undefined {
  try {
    return openChecked(image, options.device.blockSizeBytes, true, partOf(options).part);
  } catch (error) {
    const { code } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
    if (!options.isNofail || code !== "ENOENT") throw error;
    context.detail(`there is no ${image}: nothing done, because of nofail`);
    return undefined;
  }
}

/** Only what is new in the protocol with it asks for a manager that knows it. */
const partOf = ({ offsetBytes }: MountOptions): { part?: ImagePart } =>
  offsetBytes === 0 ? {} : { part: { offsetBytes } };

/** Before anything is attached: mount(8) would call it a wrong file system type. @throws ErofsNbdError ERR_MOUNT */
async function checkOffset(act: string, offsetBytes: number): Promise<void> {
  const { refusalOf } = await import("../../sys/libc/mount-api.ts");
  const why = refusalOf("erofs", "fsoffset", `${offsetBytes}`);
  if (why === undefined) return;
  throw new ErofsNbdError("ERR_MOUNT", `cannot ${act}: this kernel refuses fsoffset=${offsetBytes}: ${why}`, {
    hint: `boot Linux 6.16 or newer, or copy the image out of the file: tail -c +${offsetBytes + 1} FILE > IMAGE`,
  });
}

/** Changes the options of a mount. Options of erofs-nbd are fixed at the attach. */
async function remount(context: CliContext, request: MountRequest, act: string): Promise<void> {
  if (request.namespace !== undefined) {
    throw new ErofsNbdError("ERR_MOUNT", `cannot ${act}: the mount is in another namespace`, {
      hint: "enter the namespace: nsenter -t PID -m mount -i -o remount,OPTIONS DIR",
    });
  }
  const directory = await realpath(request.directory);
  const index = await indexMountedAt(directory);
  if (index === undefined) {
    throw new ErofsNbdError("ERR_MOUNT", `cannot ${act}: no nbd device is mounted there`);
  }
  const node = devicePath(index);
  if (request.isFake) return;
  const end = await runProgram("mount", mountWords(request, node, directory));
  if (!hasMounted(end)) throw programError(act, "mount", end);
  relay(context, end);
  context.detail(`${node} at ${directory} is remounted; nbd.* options stay as they were at the mount`);
}

/** Passes on what mount(8) wrote to stderr although it succeeded. */
function relay(context: CliContext, { stderr }: ProgramEnd): void {
  for (const line of stderr.split("\n")) if (line.trim() !== "") context.note(line.trim());
}

const hasMounted = ({ exitCode }: ProgramEnd): boolean => exitCode === 0 || exitCode === TABLE_FAILED;

function mountWords(
  { options, withoutTable, namespace }: MountRequest,
  node: string,
  directory: string,
): string[] {
  return [
    ...MOUNT_WORDS,
    ...(withoutTable ? ["-n"] : []),
    ...(namespace === undefined ? [] : ["-N", namespace]),
    "-o",
    options.forMount.join(","),
    node,
    directory,
  ];
}

async function mountDevice(job: Job, device: DeviceStatus): Promise<void> {
  const { context, client, interrupted, request, act } = job;
  const { device: node, index } = device;
  if (node === null || index === null) {
    throw new ErofsNbdError("ERR_INTERNAL", `cannot ${act}: the manager named no device`);
  }
  let isMounted = false;
  try {
    interrupted.check(act);
    // Held open until autoclear is set: a close by udev must not be the last one.
    const held = await open(node, "r");
    try {
      await refuseOtherNode(act, node, index, held);
      const words = mountWords(request, node, resolve(request.directory));
      const end = await runProgram("mount", words, interrupted.signal);
      isMounted = hasMounted(end);
      interrupted.check(act);
      if (!isMounted) throw programError(act, "mount", end);
      relay(context, end);
      await client.request("mounted", { index }).catch((error: unknown) =>
        // The successor has adopted the device and its loan.
        askSuccessor(job, device, error, (next) => next.request("mounted", { index })),
      );
    } finally {
      await held.close();
    }
  } catch (error) {
    await undo(job, device, isMounted);
    throw error;
  }
}

/**
 * Sends a request that the former manager has not answered to its successor, if that has the same device. @throws
 * `error` if not
 */
async function askSuccessor<T>(
  { context }: Job,
  device: DeviceStatus,
  error: unknown,
  ask: (client: ControlClient) => Promise<T>,
): Promise<T> {
  if (!hasCode(error, "ERR_CONTROL")) throw error;
  const next = await startManager(context);
  try {
    if ((await sameDevice(next, device)) === undefined) throw error;
    return await ask(next);
  } finally {
    next.close();
  }
}

/** Best effort: the caller throws the first error, and the manager cleans up when this process ends. */
async function undo(job: Job, device: DeviceStatus, isMounted: boolean): Promise<void> {
  const { context, client, request } = job;
  const { namespace } = request;
  const directory = resolve(request.directory);
  try {
    if (isMounted) {
      const words = [...(namespace === undefined ? [] : ["-N", namespace]), directory];
      const end = await runProgram("umount", words);
      if (end.exitCode !== 0) throw programError(`unmount ${directory}`, "umount", end);
    }
    const params = { targets: [{ index: device.index ?? -1 }], all: false, force: false };
    const { results } = await client
      .request("detach", params)
      .catch((error: unknown) => askSuccessor(job, device, error, (next) => next.request("detach", params)));
    const error = results[0]?.error ?? null;
    if (error !== null && error.code !== "ERR_NOT_ATTACHED") throw new Error(error.message);
  } catch (error) {
    context.note(error instanceof Error ? error.message : String(error));
  }
}
