/**
 * `mount`: attach, mount with the node held open, let the device end with its last close, print nothing.
 *
 * The device is lent to this command's connection: whenever the command ends before `mounted`, the manager looks what
 * is there and detaches. What can be undone from here is, so that nothing is left when the command has returned.
 */
import { open, stat } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { ErofsNbdError } from "../../errors.ts";
import type { ControlClient } from "../../manager/control-client.ts";
import type { DeviceStatus } from "../../manager/control-protocol.ts";
import { startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import type { Remembered } from "../interrupts.ts";
import { programError, runProgram } from "../mount-program.ts";
import { checkImage, requireRoot } from "../preconditions.ts";
import { DEFAULTS, readAttachParams } from "./attach.ts";

interface Options {
  readonly options?: string;
}

const HELP = `
Examples:
  sudo erofs-nbd mount image.erofs /mnt
  sudo erofs-nbd mount -o noatime,nodev image.erofs /mnt

Nothing is printed (with -v the device). A plain umount ends everything: mount, device and workers.`;

/** One mount in the making. */
interface Job {
  readonly context: CliContext;
  readonly client: ControlClient;
  readonly interrupted: Remembered;
  readonly image: string;
  readonly directory: string;
  readonly mountOptions: string;
}

export function define(command: Command, context: CliContext): void {
  command
    .argument("<IMAGE>", "path of the EROFS image")
    .argument("<DIR>", "directory to mount at")
    .option("-o, --options <OPTIONS>", "mount options, comma-separated; ro is always there")
    .addHelpText("after", HELP)
    .action((image: string, directory: string, options: Options) => run(context, image, directory, options));
}

async function run(context: CliContext, path: string, directory: string, options: Options): Promise<void> {
  const act = `mount ${path} at ${directory}`;
  const mountOptions = options.options === undefined ? "ro" : `ro,${options.options}`;
  requireRoot(act);
  await checkDirectory(act, directory);
  const image = checkImage(path, null, true);
  const interrupted = context.interrupts.remember("undoing the mount");
  const client = await startManager(context);
  try {
    interrupted.check(act);
    const params = { ...readAttachParams(image, DEFAULTS), forMount: true };
    const { device, notes } = await client.request("attach", params);
    for (const note of notes) context.note(note);
    const job = { context, client, interrupted, image: path, directory: resolve(directory), mountOptions };
    await mountDevice(job, device, act);
    context.detail(`${path} is mounted at ${directory} from ${device.device}`);
  } finally {
    client.close();
    interrupted.release();
  }
}

async function checkDirectory(act: string, directory: string): Promise<void> {
  let why: string | undefined;
  try {
    if (!(await stat(directory)).isDirectory()) why = `${directory} is not a directory`;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    why = code === "ENOENT" ? `there is no directory ${directory}` : `${directory}: ${code}`;
  }
  if (why === undefined) return;
  throw new ErofsNbdError("ERR_BAD_ARGUMENT", `Cannot ${act}: ${why}`, {
    hint: "make the mount point first: mkdir",
  });
}

async function mountDevice(job: Job, device: DeviceStatus, act: string): Promise<void> {
  const { client, interrupted, directory } = job;
  const { device: node, index } = device;
  if (node === null || index === null) {
    throw new ErofsNbdError("ERR_INTERNAL", `Cannot ${act}: the manager named no device`);
  }
  let isMounted = false;
  try {
    interrupted.check(act);
    // Held until autoclear is set: udev's open and close of the node must not be the last one.
    const held = await open(node, "r");
    try {
      const words = ["-t", "erofs", "-o", job.mountOptions, node, directory];
      const end = await runProgram("mount", words, interrupted.signal);
      isMounted = end.exitCode === 0;
      interrupted.check(act);
      if (!isMounted) throw programError(act, "mount", end);
      if (end.stderr !== "") process.stderr.write(end.stderr);
      await client.request("mounted", { index });
    } finally {
      await held.close();
    }
  } catch (error) {
    await undo(job, index, isMounted);
    throw error;
  }
}

/** Best effort: the first error is the one to tell, and the manager cleans up behind us when we are gone. */
async function undo(job: Job, index: number, isMounted: boolean): Promise<void> {
  const { context, client, directory } = job;
  try {
    if (isMounted) {
      const end = await runProgram("umount", [directory]);
      if (end.exitCode !== 0) throw programError(`unmount ${directory}`, "umount", end);
    }
    const { results } = await client.request("detach", { targets: [{ index }], all: false, force: false });
    const error = results[0]?.error ?? null;
    if (error !== null && error.code !== "ERR_NOT_ATTACHED") throw new Error(error.message);
  } catch (error) {
    context.note(error instanceof Error ? error.message : String(error));
  }
}
