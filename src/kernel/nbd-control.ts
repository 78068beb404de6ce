/**
 * The manager's one connection to the kernel's nbd family: opened when first needed, events handed to the devices.
 *
 * One NbdNetlink serves all devices, because the kernel runs one nbd command at a time anyway (genl_mutex); it
 * queues them and says when one has been stuck inside the driver for long.
 */
import { NbdNetlink, NetlinkError } from "../../netlink/index.ts";
import { ErofsNbdError } from "../errors.ts";
import type { Log } from "../log/log.ts";
import { isNbdLoaded } from "./sysfs.ts";

export interface KernelListener {
  linkDead(index: number): void;
  /** Messages were lost: look at every device. */
  resynchronise(): void;
}

export class NbdControl {
  readonly #log: Log;
  readonly #listener: KernelListener;
  #opening: Promise<NbdNetlink> | undefined;

  constructor(log: Log, listener: KernelListener) {
    this.#log = log;
    this.#listener = listener;
  }

  /** The family, with the event subscription running. @throws ErofsNbdError ERR_NO_NBD, ERR_NO_NETLINK; NetlinkError */
  family(): Promise<NbdNetlink> {
    this.#opening ??= this.#open().catch((error: unknown) => {
      this.#opening = undefined;
      throw error;
    });
    return this.#opening;
  }

  async close(): Promise<void> {
    const family = await this.#opening?.catch(() => undefined);
    await family?.close();
  }

  async #open(): Promise<NbdNetlink> {
    const family = new NbdNetlink({
      onStuck: ({ command, elapsedMs }) =>
        this.#log.warn(`The kernel has been busy with ${command} for ${elapsedMs} ms`, {
          command,
          elapsedMs,
        }),
    });
    try {
      await family.linkDeadEvents((event) => {
        if (event.type === "link-dead") return this.#listener.linkDead(event.index);
        this.#log.warn(`Kernel events may have been lost (${event.reason}): looking at every device`);
        this.#listener.resynchronise();
      });
      return family;
    } catch (error) {
      await family.close();
      throw explainMissingFamily(error);
    }
  }
}

/** A missing family means two different things: no driver at all, or one that is too old or out of reach. */
function explainMissingFamily(error: unknown): unknown {
  if (!(error instanceof NetlinkError) || error.code !== "ERR_NETLINK_NO_FAMILY") return error;
  if (!isNbdLoaded()) {
    return new ErofsNbdError("ERR_NO_NBD", "cannot attach: the kernel has no nbd driver loaded", {
      hint: "load it: modprobe nbd max_part=0",
      cause: error,
    });
  }
  return new ErofsNbdError(
    "ERR_NO_NETLINK",
    "cannot attach: the nbd driver cannot be reached through netlink",
    {
      hint: "before Linux 6.4 only the initial network namespace sees it; kernels without it take --ioctl, which cannot reconnect",
      cause: error,
    },
  );
}
