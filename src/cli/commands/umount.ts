/**
 * `umount`: runs umount(8) and waits until the device is detached and its record removed.
 *
 * Devices of `erofs-nbd mount` detach themselves (autoclear). A device that was attached separately is detached by this
 * command, unless it is mounted elsewhere, too, or another device lies on it.
 */
import { realpath } from "node:fs/promises";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { type ControlClient, ControlError } from "../../control/client.ts";
import type { DeviceStatus } from "../../control/protocol.ts";
import { ErofsNbdError } from "../../errors.ts";
import { indexMountedAt } from "../../kernel/sysfs.ts";
import { sameDevice, statusOf, watchEnd } from "../attach/device-end.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { findManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { programError, runProgram } from "../mount/mount-program.ts";
import { formatJson } from "../output.ts";
import { readPath } from "../values.ts";

interface Options {
  readonly json?: true;
}

/** A device with autoclear ends within milliseconds of its last close, unless udev has it open at that moment. */
const AUTOCLEAR_MS = 2000;
const GONE_MS = 10_000;
const POLL_MS = 20;

const HELP = `
Example:
  sudo erofs-nbd umount /mnt

Returns when the device is detached. Exit code 3 if no device of erofs-nbd is mounted at DIR, 32 if umount(8) fails.
--json prints mountPoint, device and detached, which is false if the device is mounted or used elsewhere, too.`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("<DIR>", "the mount point")
    .option("--json", "print what was unmounted as an object")
    .addHelpText("after", HELP)
    .action((directory: string, options: Options) => run(context, directory, options));
}

async function run(context: CliContext, directory: string, options: Options): Promise<void> {
  const act = `unmount ${readPath("DIR", directory)}`;
  requireRoot("unmounting is left to root");
  const { index, path } = await findMount(directory);
  const client = index === undefined ? undefined : await findManager(context);
  const device = index === undefined || client === undefined ? undefined : await statusOf(client, index);
  if (client === undefined || device === undefined) {
    client?.close();
    const why =
      index === undefined ? "no nbd device is mounted there" : `nbd${index} is not a device of erofs-nbd`;
    const hint = index === undefined ? undefined : "unmount it with umount(8)";
    throw new ErofsNbdError("ERR_NOT_ATTACHED", `cannot ${act}: ${why}`, { hint });
  }
  try {
    const extras = await extrasOf(client, device);
    const gone = watchEnd(client, device);
    const end = await runProgram("umount", [path]);
    if (end.exitCode !== 0) throw programError(act, "umount", end);
    await endDevice(context, client, device, gone, act);
    for (const extra of extras) await endDevice(context, client, extra, untilGone(client, extra), act);
    if (!options.json) return;
    const detached = (await sameDevice(client, device)) === undefined;
    await context.print(formatJson({ mountPoint: path, device: device.device, detached }));
  } finally {
    client.close();
  }
}

/** Looks up the path as given, then with symbolic links resolved, as mountinfo shows it. */
async function findMount(directory: string): Promise<{ index: number | undefined; path: string }> {
  const path = resolve(directory);
  const index = await indexMountedAt(path);
  if (index !== undefined) return { index, path };
  try {
    const real = await realpath(path);
    return { index: await indexMountedAt(real), path: real };
  } catch {
    return { index: undefined, path };
  }
}

/** The devices with further data of the file system, which end with the mount as well. */
async function extrasOf(client: ControlClient, main: DeviceStatus): Promise<DeviceStatus[]> {
  const { devices } = await client.request("status", { target: null });
  return devices.filter(({ extraOf }) => extraOf !== undefined && extraOf === main.device);
}

/** As watchEnd, of which there is one for each connection. */
async function untilGone(client: ControlClient, device: DeviceStatus): Promise<void> {
  const end = performance.now() + AUTOCLEAR_MS + GONE_MS;
  while (performance.now() < end && (await sameDevice(client, device)) !== undefined) await sleep(POLL_MS);
}

async function endDevice(
  context: CliContext,
  client: ControlClient,
  device: DeviceStatus,
  gone: Promise<void>,
  act: string,
): Promise<void> {
  const patience = new AbortController();
  const { signal } = patience;
  try {
    await Promise.race([gone, sleep(AUTOCLEAR_MS, undefined, { signal })]);
    const left = await sameDevice(client, device);
    if (left === undefined) return;
    if (left.mountPoints.length > 0) {
      return context.note(
        `${left.device} stays attached: it is also mounted at ${left.mountPoints.join(", ")}`,
      );
    }
    const request = { targets: [{ index: left.index ?? -1 }], all: false, force: false };
    const { results } = await client.request("detach", request);
    const error = results[0]?.error ?? null;
    if (error?.code === "ERR_DEVICE_MOUNTED")
      return context.note(`${left.device} stays attached: ${error.message}`);
    if (error !== null && error.code !== "ERR_NOT_ATTACHED") throw new ControlError(error);
    await Promise.race([gone, sleep(GONE_MS, undefined, { signal })]);
    if ((await sameDevice(client, device)) === undefined) return;
    const name = `nbd${device.index}`;
    throw new ErofsNbdError("ERR_KERNEL", `cannot ${act}: timed out waiting for ${name} to disconnect`, {
      hint: `a process holds the node open: fuser -v ${device.device} shows it`,
    });
  } finally {
    patience.abort();
  }
}
