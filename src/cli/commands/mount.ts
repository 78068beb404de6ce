/**
 * `mount`: the options read, and mountImage() asked; prints nothing.
 *
 * The same as the mount helper does, which is for mount(8) and fstab; but here a second mount of the same goes on top.
 */
import type { Command } from "commander";
import type { CliContext } from "../context.ts";
import { mountImage } from "../mount-image.ts";
import { readMountOptions } from "../mount-options.ts";

interface Options {
  readonly options?: string;
}

const HELP = `
Examples:
  sudo erofs-nbd mount image.erofs /mnt
  sudo erofs-nbd mount -o noatime,nodev image.erofs /mnt
  sudo erofs-nbd mount -o nbd.connections=2,nbd.dead-timeout=3600 image.erofs /mnt

Options of attach are written nbd.NAME=VALUE; all others are for mount(8) and the kernel. Nothing is printed (with -v the
device). A plain umount ends everything: mount, device and workers.`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("<IMAGE>", "path of the EROFS image")
    .argument("<DIR>", "directory to mount at")
    .option("-o, --options <OPTIONS>", "mount options, comma-separated; ro is always there")
    .addHelpText("after", HELP)
    .action((image: string, directory: string, options: Options) => run(context, image, directory, options));
}

async function run(context: CliContext, image: string, directory: string, options: Options): Promise<void> {
  await mountImage(context, { image, directory, options: readMountOptions(options.options ?? "", false) });
}
