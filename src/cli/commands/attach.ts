/**
 * `attach`: options to AttachParams, the image checked, the manager asked; prints the device node and nothing else.
 *
 * An interrupted attach is finished by the manager and then undone from here, because a device that nobody was told
 * about would stay.
 */
import { type Command, Option } from "commander";
import type { AttachParams } from "../../manager/control-protocol.ts";
import {
  DEFAULT_HANG_TIMEOUT_MS,
  MAX_CONNECTIONS,
  MAX_TIMEOUT_SECONDS,
  MIN_HANG_TIMEOUT_MS,
} from "../../manager/limits.ts";
import { startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { printAttached } from "../output.ts";
import { checkImage, requireRoot } from "../preconditions.ts";
import { badValue, readBlockSize, readDevice, readTimeout, readWhole } from "../values.ts";

interface Options {
  readonly netlink?: true;
  readonly ioctl?: true;
  readonly device?: string;
  readonly connections: string;
  readonly blockSize?: string;
  readonly timeout: string;
  readonly deadTimeout: string;
  readonly ioTimeout: string;
  readonly hangTimeout: string;
  readonly foreground?: true;
  readonly json?: true;
}

const HELP = `
Examples:
  sudo erofs-nbd attach image.erofs
  sudo erofs-nbd attach --device nbd3 --json image.erofs
  sudo erofs-nbd attach --foreground image.erofs     Ctrl-C detaches

The node is printed when the device can be read. With --ioctl a device survives its workers, not its links.`;

/** The defaults of `attach`, as the user would spell them; `mount` attaches with the same. */
export const DEFAULTS: Readonly<
  Record<"connections" | "timeout" | "deadTimeout" | "ioTimeout" | "hangTimeout", string>
> = {
  connections: "1",
  timeout: "never",
  deadTimeout: "86400",
  ioTimeout: "1000",
  hangTimeout: String(DEFAULT_HANG_TIMEOUT_MS),
};

export function define(command: Command, context: CliContext): void {
  command
    .argument("<IMAGE>", "path of the image")
    .option("--netlink", "attach through netlink or not at all (netlink is the default)")
    .option("--ioctl", "attach the legacy way: a dead link means a dead device")
    .option("--device <DEVICE>", "nbd3, /dev/nbd3 or 3 (default: the kernel picks)")
    .addOption(withDefault("--connections <N>", "links between kernel and workers", DEFAULTS.connections))
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
        "how long a worker may serve nothing until another takes over",
        DEFAULTS.hangTimeout,
      ),
    )
    .option("--foreground", "run the manager in this process; Ctrl-C detaches")
    .option("--json", "print the device's status object instead of the node")
    .addHelpText("after", HELP)
    .action((image: string, options: Options) => run(context, image, options));
}

/** commander would print the default in quotes. */
function withDefault(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value, value);
}

/** What to ask the manager for; the image's path is still the user's. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readAttachParams(image: string, options: Options): AttachParams {
  if (options.netlink && options.ioctl) {
    throw badValue("--netlink", "with --ioctl", "one of them");
  }
  const connections = readWhole("--connections", options.connections, 1, MAX_CONNECTIONS);
  if (options.ioctl && connections > 1) {
    throw badValue("--connections", options.connections, "1 with --ioctl, which knows one link only");
  }
  const { device, blockSize } = options;
  return {
    image,
    interface: options.ioctl ? "ioctl" : options.netlink ? "netlink" : "any",
    index: device === undefined ? null : readDevice("--device", device),
    connections,
    blockSizeBytes: blockSize === undefined ? null : readBlockSize("--block-size", blockSize),
    timeoutSeconds: readTimeout("--timeout", options.timeout),
    deadTimeoutSeconds: readWhole("--dead-timeout", options.deadTimeout, 0, MAX_TIMEOUT_SECONDS),
    ioTimeoutMs: readWhole("--io-timeout", options.ioTimeout, 1, MAX_TIMEOUT_SECONDS * 1000),
    hangTimeoutMs: readWhole(
      "--hang-timeout",
      options.hangTimeout,
      MIN_HANG_TIMEOUT_MS,
      MAX_TIMEOUT_SECONDS * 1000,
    ),
    forMount: false,
  };
}

async function run(context: CliContext, path: string, options: Options): Promise<void> {
  const wanted = readAttachParams(path, options);
  requireRoot(`attach ${path}`);
  const params = { ...wanted, image: checkImage(path, wanted.blockSizeBytes, false) };
  if (params.interface === "ioctl") {
    context.note("attached by ioctl, a device cannot be reconnected: when its link dies, it is gone");
  }
  if (options.foreground) {
    const { attachInForeground } = await import("../foreground.ts");
    return attachInForeground(context, params, options.json === true);
  }
  const interrupted = context.interrupts.remember("finishing the attach, then detaching");
  const client = await startManager(context);
  try {
    interrupted.check(`attach ${path}`);
    const { device, notes } = await client.request("attach", params);
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
