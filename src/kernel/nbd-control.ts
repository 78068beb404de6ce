/**
 * The manager's one connection to the kernel's nbd family, and the commands that it has not answered yet.
 *
 * Supervisors send their commands through it and leftover devices their DISCONNECT. The connection is opened by the
 * first command. One NbdNetlink serves all devices, because the kernel runs one nbd command at a time (genl_mutex).
 */
import {
  type NbdConnectOptions,
  NbdNetlink,
  type NbdNetlinkOptions,
  type NbdReconfigureOptions,
  NetlinkError,
} from "../../netlink/index.ts";
import { ErofsNbdError } from "../errors.ts";
import type { Log } from "../log/log.ts";
import { driverState, NBD_REMEDY } from "./modules.ts";

/** Receives the kernel's nbd events. */
export interface KernelListener {
  /** A socket of this device died. */
  linkDead(index: number): void;
  /** Events may have been lost: every device has to be checked. */
  resynchronise(): void;
}

/** A device as the kernel knows it: `backendIdentifier` is the text given at CONNECT. */
export interface ConnectedDevice {
  readonly index: number;
  readonly backendIdentifier: string;
}

export class NbdControl {
  readonly #log: Log;
  readonly #listener: KernelListener;
  readonly #openTransport: NbdNetlinkOptions["openTransport"];
  #opening: Promise<NbdNetlink> | undefined;
  /** The number of unanswered commands of each device, by backend identifier. */
  readonly #pending = new Map<string, number>();

  /** `openTransport` is for tests; the kernel's by default. */
  constructor(log: Log, listener: KernelListener, openTransport?: NbdNetlinkOptions["openTransport"]) {
    this.#log = log;
    this.#listener = listener;
    this.#openTransport = openTransport;
  }

  /** Opens the connection unless it is open. @throws ErofsNbdError ERR_NO_NBD, ERR_NO_NETLINK; NetlinkError */
  async open(): Promise<void> {
    await this.#family();
  }

  /** @throws ErofsNbdError, NetlinkError; see `open` and NbdNetlink */
  connect(options: NbdConnectOptions): Promise<{ index: number }> {
    return this.#run(options.backendIdentifier, (family) => family.connect(options));
  }

  /** @throws ErofsNbdError, NetlinkError; see `open` and NbdNetlink */
  reconfigure(options: NbdReconfigureOptions): Promise<void> {
    return this.#run(options.backendIdentifier, (family) => family.reconfigure(options));
  }

  /** The kernel does not compare the identifier: callers do. @throws ErofsNbdError, NetlinkError */
  disconnect({ index, backendIdentifier }: ConnectedDevice): Promise<void> {
    return this.#run(backendIdentifier, (family) => family.disconnect(index));
  }

  /** Whether a command of this device is unanswered. */
  isBusyWith(backendIdentifier: string): boolean {
    return this.#pending.has(backendIdentifier);
  }

  async close(): Promise<void> {
    const family = await this.#opening?.catch(() => undefined);
    await family?.close();
  }

  async #run<T>(backendIdentifier: string, command: (family: NbdNetlink) => Promise<T>): Promise<T> {
    this.#pending.set(backendIdentifier, (this.#pending.get(backendIdentifier) ?? 0) + 1);
    try {
      return await command(await this.#family());
    } finally {
      const left = (this.#pending.get(backendIdentifier) ?? 1) - 1;
      if (left > 0) this.#pending.set(backendIdentifier, left);
      else this.#pending.delete(backendIdentifier);
    }
  }

  /** The family, with the event subscription running. A failed opening is tried again by the next caller. */
  #family(): Promise<NbdNetlink> {
    this.#opening ??= this.#openFamily().catch((error: unknown) => {
      this.#opening = undefined;
      throw error;
    });
    return this.#opening;
  }

  async #openFamily(): Promise<NbdNetlink> {
    const family = new NbdNetlink({
      openTransport: this.#openTransport,
      onStuck: ({ command, elapsedMs }) =>
        this.#log.warn(`The kernel has been busy with ${command} for ${elapsedMs} ms`, {
          command,
          elapsedMs,
        }),
    });
    try {
      await family.linkDeadEvents((event) => {
        if (event.type === "link-dead") return this.#listener.linkDead(event.index);
        this.#log.warn(`Kernel events may have been lost (${event.reason}): checking every device`);
        this.#listener.resynchronise();
      });
      return family;
    } catch (error) {
      await family.close();
      throw explainMissingFamily(error);
    }
  }
}

/** A missing family has two causes: no driver, or a driver that is too old or out of reach. */
function explainMissingFamily(error: unknown): unknown {
  if (!(error instanceof NetlinkError) || error.code !== "ERR_NETLINK_NO_FAMILY") return error;
  const state = driverState("nbd");
  if (state === "module" || state === "missing") {
    const loaded = state === "module" ? " loaded" : "";
    return new ErofsNbdError("ERR_NO_NBD", `cannot attach: the kernel has no nbd driver${loaded}`, {
      hint: NBD_REMEDY[state],
      cause: error,
    });
  }
  return new ErofsNbdError(
    "ERR_NO_NETLINK",
    "cannot attach: the nbd driver cannot be reached through netlink",
    {
      hint:
        "before Linux 6.4 only the initial network namespace sees it; kernels without it take --ioctl, which cannot " +
        "reconnect",
      cause: error,
    },
  );
}
