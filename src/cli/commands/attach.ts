/**
 * `attach`: opens the image and hands it to the manager; prints the device node and nothing else.
 *
 * The manager finishes an interrupted attach, and the command then detaches the device, which would otherwise stay
 * attached without its node having been printed.
 */
import { closeSync } from "node:fs";
import { resolve } from "node:path";
import { type Command, Option } from "commander";
import type { AttachParams } from "../../control/protocol.ts";
import { ATTACHING } from "../../errors.ts";
import { type AttachWords, DEFAULTS, readAttachParams } from "../attach/attach-params.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { printAttached } from "../output.ts";

interface Options extends AttachWords {
  readonly foreground?: true;
  readonly json?: true;
}

const HELP = `
Examples:
  sudo erofs-nbd attach image.erofs
  sudo erofs-nbd attach --device nbd3 --json image.erofs
  sudo erofs-nbd attach --foreground image.erofs     Ctrl-C detaches
  sudo erofs-nbd attach /dev/stdin <image.erofs

The node is printed once the device can be read. If a stalled device is waiting for this image, that device resumes and
its node is printed instead. With --ioctl a device survives the death of its workers, but not the loss of its link.`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("<IMAGE>", "path of the image, /dev/stdin or /proc/self/fd/N")
    .option("--netlink", "use netlink (the default), and fail rather than fall back")
    .option("--ioctl", "use the legacy interface: a dead link means a dead device")
    .option("--device <DEVICE>", "nbd3, /dev/nbd3 or 3 (default: the kernel picks)")
    .addOption(
      withDefault("--connections <N>", "number of links between kernel and workers", DEFAULTS.connections),
    )
    .option("--block-size <BYTES>", "default: the EROFS block size; a raw image: 512")
    .addOption(withDefault("--timeout <SECONDS>", "the kernel's request timeout, or never", DEFAULTS.timeout))
    .addOption(
      withDefault(
        "--dead-timeout <SECONDS>",
        "how long the kernel holds reads with no link",
        DEFAULTS.deadTimeout,
      ),
    )
    .addOption(
      withDefault("--io-timeout <MS>", "requeue timer of reads that were on a dead link", DEFAULTS.ioTimeout),
    )
    .addOption(
      withDefault(
        "--hang-timeout <MS>",
        "time without progress after which a worker is replaced",
        DEFAULTS.hangTimeout,
      ),
    )
    .option("--foreground", "run the manager in this process; Ctrl-C detaches")
    .option("--json", "print the device's status object instead of the node")
    .addHelpText("after", HELP)
    .action((image: string, options: Options) => run(context, image, options));
}

/** Commander would print the default in quotes. */
function withDefault(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value, value);
}

async function run(context: CliContext, path: string, options: Options): Promise<void> {
  const wanted = readAttachParams(options);
  requireRoot(ATTACHING);
  // Inspecting images loads the bindings of libc, which --help does not need.
  const { openChecked } = await import("../../manager/image-inspection.ts");
  const image = openChecked(path, wanted.blockSizeBytes, false);
  try {
    await attachImage(context, path, { ...wanted, image: resolve(path), forMount: false }, image.fd, options);
  } finally {
    closeSync(image.fd);
  }
}

async function attachImage(
  context: CliContext,
  path: string,
  params: AttachParams,
  imageFd: number,
  options: Options,
): Promise<void> {
  if (params.interface === "ioctl") {
    context.note("a device attached by ioctl cannot be reconnected: it fails when its link dies");
  }
  if (options.foreground) {
    const { attachInForeground } = await import("../attach/foreground.ts");
    return attachInForeground(context, params, imageFd, options.json === true);
  }
  const interrupted = context.interrupts.remember("finishing the attach, then detaching");
  const client = await startManager(context, interrupted.signal).catch((error: unknown) => {
    interrupted.check(`attach ${path}`);
    throw error;
  });
  try {
    interrupted.check(`attach ${path}`);
    const { device, notes } = await client.request("attach", params, imageFd);
    if (interrupted.signal.aborted && device.index !== null) {
      await client.request("detach", { targets: [{ index: device.index }], all: false, force: false });
    }
    interrupted.check(`attach ${path}`);
    for (const note of notes) context.note(note);
    await printAttached(context, device, options.json === true);
  } finally {
    client.close();
    interrupted.release();
  }
}
