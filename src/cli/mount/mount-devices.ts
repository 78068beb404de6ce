/**
 * Attaches the images of a mount, mounts them while all nodes are held open, and enables autoclear for each device.
 *
 * Used by mount-image.ts. The devices are on loan to this process's connection: if the connection ends before their
 * `mounted` requests, the manager detaches those that are not mounted. On errors this process undoes what it can
 * itself, so that nothing is left on return.
 */
import { open } from "node:fs/promises";
import { resolve } from "node:path";
import type { ControlClient } from "../../control/client.ts";
import type { AttachParams, DeviceStatus } from "../../control/protocol.ts";
import { ErofsNbdError, hasCode } from "../../errors.ts";
import { sameDevice } from "../attach/device-end.ts";
import { startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import type { Remembered } from "../interrupts.ts";
import type { OpenImages } from "./images-to-mount.ts";
import { programError, refuseOtherNode, runProgram } from "./mount-program.ts";
import { hasMounted, type MountRequest, mountWords, relay } from "./mount-request.ts";

/** A mount in progress. */
export interface Job {
  readonly context: CliContext;
  readonly client: ControlClient;
  readonly interrupted: Remembered;
  readonly request: MountRequest;
  readonly act: string;
}

/** What has been attached for a mount. */
interface Attached {
  readonly devices: DeviceStatus[];
  /** Of the devices with further data, and of block devices that need not be attached: in their order. */
  readonly extraNodes: string[];
}

/** Returns the node of the file system's device. @throws ErofsNbdError, ControlError after everything was undone */
export async function attachAndMount(job: Job, images: OpenImages): Promise<string> {
  const attached: Attached = { devices: [], extraNodes: [] };
  let isMounted = false;
  try {
    const main = await attachAll(job, images, attached);
    await holdingNodes(job, attached.devices, async () => {
      const { context, interrupted, request, act } = job;
      const words = mountWords(request, main, resolve(request.directory), attached.extraNodes);
      const end = await runProgram("mount", words, interrupted.signal);
      isMounted = hasMounted(end);
      interrupted.check(act);
      if (!isMounted) throw programError(act, "mount", end);
      relay(context, end);
      for (const device of attached.devices) await reportMounted(job, device);
    });
    return main;
  } catch (error) {
    await undo(job, attached.devices, isMounted);
    throw error;
  }
}

/** The file system's device first, because the others name it. */
async function attachAll(job: Job, images: OpenImages, { devices, extraNodes }: Attached): Promise<string> {
  const { context, client, interrupted, request, act } = job;
  const attach = async (params: AttachParams, fd: number): Promise<string> => {
    interrupted.check(act);
    const { device, notes } = await client.request("attach", params, fd);
    devices.push(device);
    for (const note of notes) context.note(note);
    if (device.device !== null && device.index !== null) return device.device;
    throw new ErofsNbdError("ERR_INTERNAL", `cannot ${act}: the manager named no device`);
  };
  const { main, part, extras } = images;
  const params = { ...request.options.device, image: resolve(request.image), forMount: true };
  const node = await attach(part === undefined ? params : { ...params, part }, main.fd);
  const extraPart = { offsetBytes: 0, extraOf: devices[0]?.identifier };
  for (const { path, image } of extras) {
    const extraParams = { ...params, image: path, index: null, part: extraPart };
    extraNodes.push(image === undefined ? path : await attach(extraParams, image.fd));
  }
  return node;
}

/** Nodes are held open until autoclear is set: a close by udev must not be the last one. */
async function holdingNodes(
  { interrupted, act }: Job,
  devices: readonly DeviceStatus[],
  work: () => Promise<void>,
): Promise<void> {
  const held: Awaited<ReturnType<typeof open>>[] = [];
  try {
    for (const { device, index } of devices) {
      interrupted.check(act);
      const handle = await open(device ?? "", "r");
      held.push(handle);
      await refuseOtherNode(act, device ?? "", index ?? -1, handle);
    }
    await work();
  } finally {
    for (const handle of held) await handle.close();
  }
}

async function reportMounted(job: Job, device: DeviceStatus): Promise<void> {
  const index = device.index ?? -1;
  await job.client.request("mounted", { index }).catch((error: unknown) =>
    // The successor has adopted the device and its loan.
    askSuccessor(job, device, error, (next) => next.request("mounted", { index })),
  );
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
async function undo(job: Job, devices: readonly DeviceStatus[], isMounted: boolean): Promise<void> {
  const { context, request } = job;
  const { namespace } = request;
  const directory = resolve(request.directory);
  const note = (error: unknown): void => context.note(error instanceof Error ? error.message : String(error));
  if (isMounted) {
    const words = [...(namespace === undefined ? [] : ["-N", namespace]), directory];
    const end = await runProgram("umount", words).catch((error: unknown) => note(error));
    if (end && end.exitCode !== 0) note(programError(`unmount ${directory}`, "umount", end));
  }
  for (const device of devices.toReversed()) await detach(job, device).catch(note);
}

async function detach(job: Job, device: DeviceStatus): Promise<void> {
  const params = { targets: [{ index: device.index ?? -1 }], all: false, force: false };
  const { results } = await job.client
    .request("detach", params)
    .catch((error: unknown) => askSuccessor(job, device, error, (next) => next.request("detach", params)));
  const error = results[0]?.error ?? null;
  if (error !== null && error.code !== "ERR_NOT_ATTACHED") throw new Error(error.message);
}
