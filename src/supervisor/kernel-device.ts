/**
 * One device as the kernel has it: its index, the commands about it, and its count of reads in flight.
 *
 * NetlinkDevice and its failovers use it. Every command carries the identifier, every RECONFIGURE the dead-connection
 * timeout and the client flags, and none a size (it would freeze the queue) or TIMEOUT (it would reset io_timeout).
 */
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import pRetry from "p-retry";
import { NBD_CFLAG_DISCONNECT_ON_CLOSE, NetlinkError } from "../../netlink/index.ts";
import { notAttached } from "../errors.ts";
import type { DeviceView } from "../kernel/device-view.ts";
import { READ_ONLY_EXPORT_FLAGS } from "../nbd/wire.ts";
import type { DeviceSettings } from "./managed-device.ts";
import type { NbdCommands } from "./ports.ts";
import type { ProgressTracker } from "./progress-tracker.ts";
import { waitUntilReadable } from "./readiness.ts";

const BUSY_RETRIES = { retries: 8, minTimeout: 50, maxTimeout: 1000, factor: 2, randomize: true };
const GONE_DEADLINE_MS = 5000;
const POLL_MS = 10;

export class KernelDevice {
  readonly #settings: DeviceSettings;
  readonly #nbd: NbdCommands;
  readonly #view: DeviceView;
  readonly #progress: ProgressTracker;
  #index: number | undefined;
  /** From when on the kernel's count of reads is of the present link alone, on the clock of performance.now(). */
  #countIsTrustedAt = 0;

  constructor(settings: DeviceSettings, nbd: NbdCommands, view: DeviceView, progress: ProgressTracker) {
    this.#settings = settings;
    this.#nbd = nbd;
    this.#view = view;
    this.#progress = progress;
  }

  /** Undefined until the kernel has given one. */
  get index(): number | undefined {
    return this.#index;
  }

  /** The device exists with this index: a former manager connected it. */
  adopt(index: number): void {
    this.#index = index;
  }

  /** Whether the kernel still has the device under its identifier: the index may belong to another device by now. */
  get isOurs(): boolean {
    return this.#index !== undefined && this.#view.backendOf(this.#index) === this.#settings.identifier;
  }

  /** Looks for the device by its identifier, because a CONNECT whose answer was lost may have worked. */
  find(): boolean {
    const index = this.#index ?? this.#view.findByBackend(this.#settings.identifier);
    if (index === undefined || this.#view.backendOf(index) !== this.#settings.identifier) return false;
    this.#index = index;
    return true;
  }

  /** CONNECT: the kernel gets the sockets and gives an index. @throws NetlinkError */
  async connect(
    requestedIndex: number | undefined,
    blockSizeBytes: number,
    sockets: readonly number[],
  ): Promise<number> {
    const { identifier, sizeBytes, timeoutSeconds } = this.#settings;
    const request = {
      index: requestedIndex,
      sizeBytes,
      blockSizeBytes,
      timeoutSeconds,
      serverFlags: READ_ONLY_EXPORT_FLAGS,
      sockets,
      backendIdentifier: identifier,
      ...this.#kept,
    };
    // EBUSY comes before the sockets are looked at, so they serve for the next attempt as well.
    const { index } = await pRetry(() => this.#nbd.connect(request), {
      ...BUSY_RETRIES,
      onFailedAttempt: () => this.#progress.step(),
      shouldRetry: ({ error }) => this.#isMerelyOpen(error, requestedIndex),
    });
    this.#index = index;
    return index;
  }

  /** RECONFIGURE: the kernel gets fresh sockets for dead links, or new client flags only. @throws NetlinkError */
  async reconfigure(sockets?: readonly number[]): Promise<void> {
    const request = { index: this.#connected, backendIdentifier: this.#settings.identifier, ...this.#kept };
    try {
      await this.#nbd.reconfigure(sockets === undefined ? request : { ...request, sockets });
    } finally {
      this.#progress.step();
    }
  }

  /**
   * DISCONNECT, unless the index is another device's: the kernel does not compare the identifier.
   * @throws NetlinkError
   */
  async disconnect(): Promise<void> {
    const index = this.#connected;
    if (!this.isOurs) return;
    await this.#nbd.disconnect({ index, backendIdentifier: this.#settings.identifier });
    this.#progress.step();
  }

  /** Waits until the kernel has let the device go, or GONE_DEADLINE_MS have passed. */
  async gone(): Promise<void> {
    const end = performance.now() + GONE_DEADLINE_MS;
    const isThere = (): boolean => this.isOurs && this.#view.configuringThread(this.#connected) !== undefined;
    while (isThere() && performance.now() < end) await sleep(POLL_MS);
  }

  /** Sets the block layer's timer, and waits until the device can be read. @throws ErofsNbdError ERR_NOT_READABLE */
  async makeReadable(deadlineMs: number, life: AbortSignal): Promise<void> {
    const index = this.#connected;
    const { ioTimeoutMs, sizeBytes } = this.#settings;
    await this.#view.setIoTimeout(index, ioTimeoutMs);
    await waitUntilReadable({ index, sizeBytes, deadlineMs }, this.#view, life);
  }

  /** Whether the block layer's timer is what it should be. */
  get hasIoTimeout(): boolean {
    return this.#view.ioTimeoutMs(this.#connected) === this.#settings.ioTimeoutMs;
  }

  /** Only while no read is in flight; see sysfs.ts. */
  setIoTimeout(): Promise<void> {
    return this.#view.setIoTimeout(this.#connected, this.#settings.ioTimeoutMs);
  }

  /** Reads the first block in a process that can be lost. Never rejects. */
  async probe(signal: AbortSignal): Promise<void> {
    await this.#view.probe(this.#connected, signal);
  }

  /** The kernel's count of reads in flight, trusted or not. 0 on a device that does not exist. */
  get readsInFlight(): number {
    return this.#index === undefined ? 0 : this.#view.readsInFlight(this.#index);
  }

  /** The same count; undefined while it cannot be trusted. */
  get trustedReadsInFlight(): number | undefined {
    if (this.#index === undefined) return 0;
    if (performance.now() < this.#countIsTrustedAt || !this.#view.countsReads(this.#index)) return undefined;
    return this.#view.readsInFlight(this.#index);
  }

  /** Whether the kernel keeps a count of reads. A device that does not exist yet will have one, as is the default. */
  get isCounted(): boolean {
    return this.#index === undefined || this.#view.countsReads(this.#index);
  }

  /** For this long the count includes reads of a dead link, which are in it until they are sent again. */
  distrustCountFor(milliseconds: number): void {
    this.#countIsTrustedAt = performance.now() + milliseconds;
  }

  get #connected(): number {
    if (this.#index !== undefined) return this.#index;
    throw notAttached("change the device");
  }

  /** Sent with every command: an attribute that is left out keeps its value, but a flag that is left out is cleared. */
  get #kept(): { deadConnectionTimeoutSeconds: number; clientFlags: number } {
    return {
      deadConnectionTimeoutSeconds: this.#settings.deadTimeoutSeconds,
      clientFlags: this.#settings.autoclear ? NBD_CFLAG_DISCONNECT_ON_CLOSE : 0,
    };
  }

  /** Whether an index is busy only because a program (udev, blkid) has the unconfigured node open: that passes. */
  #isMerelyOpen(error: unknown, index: number | undefined): boolean {
    if (index === undefined || !(error instanceof NetlinkError)) return false;
    return error.errno === constants.errno.EBUSY && this.#view.configuringThread(index) === undefined;
  }
}
