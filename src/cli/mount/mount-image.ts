/**
 * Mounts an image with its further images, unless that is done already. Also a remount, which attaches nothing.
 *
 * Used by `erofs-nbd mount` and by the mount helper. mount-devices.ts attaches and mounts.
 */
import { realpath } from "node:fs/promises";
import { resolve } from "node:path";
import { readTarget } from "../../control/target.ts";
import { ATTACHING, ErofsNbdError, hasCode } from "../../errors.ts";
import { devicePath, indexMountedAt } from "../../kernel/sysfs.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { findManager, runDirOf, startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { checkOffset, closeImages, type OpenImages, openImages } from "./images-to-mount.ts";
import { attachAndMount } from "./mount-devices.ts";
import { lockMountPoint } from "./mount-lock.ts";
import { checkDirectory, checkNamespace, mayMakeDirectory } from "./mount-point.ts";
import { programError, runProgram } from "./mount-program.ts";
import { hasMounted, type MountRequest, mountWords, relay } from "./mount-request.ts";

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
  const images = openImages(context, request);
  if (images === undefined) return;
  try {
    await checkOffset(act, options.offsetBytes);
    await mountOpen(context, request, images, act);
  } finally {
    closeImages(images);
  }
}

/** Mounts the image, unless it is mounted there already and `keepMounted` is set. */
async function mountOpen(
  context: CliContext,
  request: MountRequest,
  images: OpenImages,
  act: string,
): Promise<void> {
  const { image: path, directory } = request;
  const mayBeThere = request.keepMounted && request.namespace === undefined && !request.isFake;
  if (!mayBeThere) return mountOnTop(context, request, images, act);
  const unlock = await lockMountPoint(runDirOf(context), directory, () =>
    context.detail(`waiting for another mount at ${directory}`),
  );
  try {
    if (!(await isMountedAlready(context, request))) return await mountOnTop(context, request, images, act);
    context.detail(`${path} is mounted at ${directory} already: nothing done`);
  } finally {
    unlock();
  }
}

async function mountOnTop(
  context: CliContext,
  request: MountRequest,
  images: OpenImages,
  act: string,
): Promise<void> {
  const { image: path, directory } = request;
  if (request.isFake)
    return context.detail(`${path} can be mounted at ${directory}: nothing done, as asked for`);
  const interrupted = context.interrupts.remember("undoing the mount");
  const client = await startManager(context, interrupted.signal).catch((error: unknown) => {
    interrupted.check(act);
    throw error;
  });
  try {
    interrupted.check(act);
    const node = await attachAndMount({ context, client, interrupted, request, act }, images);
    context.detail(`${path} is mounted at ${directory} from ${node}`);
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
