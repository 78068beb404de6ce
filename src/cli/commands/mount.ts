/**
 * `mount`: parses the options and calls mountImage(); with --json prints the device's status.
 *
 * The mount helper does the same for mount(8) and fstab. Unlike there, a second mount of the same image is stacked.
 */
import { realpath } from "node:fs/promises";
import type { Command } from "commander";
import { indexMountedAt } from "../../kernel/sysfs.ts";
import { statusOf } from "../attach/device-end.ts";
import { findManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { mountImage } from "../mount/mount-image.ts";
import { readMountOptions } from "../mount/mount-options.ts";
import { formatJson } from "../output.ts";
import { readPath } from "../values.ts";

interface Options {
  readonly options?: string;
  readonly json?: true;
}

const HELP = `
Examples:
  sudo erofs-nbd mount image.erofs /mnt
  sudo erofs-nbd mount -o noatime,nodev image.erofs /mnt
  sudo erofs-nbd mount -o nbd.connections=2,nbd.dead-timeout=3600 image.erofs /mnt
  sudo erofs-nbd mount -o device=blob1,device=blob2 meta.erofs /mnt

Options of attach are spelled nbd.NAME=VALUE. device=IMAGE names an image with further data of the file system, which
is attached as well. All others are passed to mount(8) and the kernel. Prints nothing; with -v the device, with --json
its status object. A plain umount(8) also detaches what was attached.`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("<IMAGE>", "path of the EROFS image")
    .argument("<DIR>", "directory to mount at")
    .option("-o, --options <OPTIONS>", "mount options, comma-separated; ro is always set")
    .option("--json", "print the device's status object")
    .addHelpText("after", HELP)
    .action((image: string, directory: string, options: Options) => run(context, image, directory, options));
}

async function run(context: CliContext, image: string, directory: string, options: Options): Promise<void> {
  readPath("DIR", directory);
  await mountImage(context, { image, directory, options: readMountOptions(options.options ?? "", false) });
  if (options.json) await printMounted(context, directory);
}

/** Prints the device that is mounted at the directory, after a mount or a remount. */
async function printMounted(context: CliContext, directory: string): Promise<void> {
  const index = await indexMountedAt(await realpath(directory));
  const client = await findManager(context);
  try {
    const device = index === undefined || client === undefined ? undefined : await statusOf(client, index);
    await context.print(formatJson(device ?? null));
  } finally {
    client?.close();
  }
}
