/**
 * A device on the legacy ioctl path, for kernels without the netlink family.
 *
 * The kernel has one socket for the device's whole life. Another worker can take it over; if that fails the device is
 * lost: its size is 0, reads fail, and no socket can be given to it again. This class then reports it and cleans up.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import { ErofsNbdError } from "../../errors.ts";
import { nbdBelow } from "../../kernel/block-users.ts";
import { probeDevice } from "../../kernel/probe.ts";
import { configuringThread, countsReads, deviceIndexes, readsInFlight } from "../../kernel/sysfs.ts";
import { READ_ONLY_EXPORT_FLAGS } from "../../nbd/wire.ts";
import { lowerNumber } from "../../source/source-spec.ts";
import { close } from "../../sys/libc/files.ts";
import { SHUT_RDWR, shutdown } from "../../sys/libc/sockets.ts";
import { NO_COUNTERS } from "../../worker-protocol/link-end.ts";
import { type DeviceExactness, exactnessOf, ImageChanges } from "../device-exactness.ts";
import type { DeviceState } from "../device-state.ts";
import type { LinkDescription } from "../links/device-link.ts";
import type {
  DeviceCounters,
  DeviceEvents,
  DeviceHistory,
  DeviceSettings,
  FailoverOutcome,
  ManagedDevice,
} from "../managed-device.ts";
import type { Image, LinkServer, OpenLink } from "../ports.ts";
import { disconnectByIoctl, IoctlClient } from "./ioctl-client.ts";

const START_DEADLINE_MS = 15_000;
const READY_DEADLINE_MS = 30_000;
const GONE_DEADLINE_MS = 5000;
const POLL_MS = 20;

export class IoctlDevice extends EventEmitter<DeviceEvents> implements ManagedDevice {
  readonly interface = "ioctl";
  readonly stalledReason = null;
  readonly waitingMs = 0;
  /** Each step has a deadline, except for the takeover, which the pool repeats. */
  readonly silentMs = 0;
  readonly settings: DeviceSettings;
  readonly image: Image;
  readonly #server: LinkServer;
  readonly #persist: () => Promise<void>;
  readonly #counters = { takeovers: 0, reconnects: 0, failedFailovers: 0, handovers: 0 };
  readonly #life = new AbortController();
  readonly #changes = new ImageChanges((change) => this.emit("imageChanged", change));
  #state: DeviceState = "attaching";
  #index: number | undefined;
  #link: OpenLink | undefined;
  #linkUp = false;
  readonly #client = new IoctlClient(() => this.#clientExited());
  #cause: string | undefined;
  #lastFailover: FailoverOutcome | null = null;

  constructor(settings: DeviceSettings, image: Image, server: LinkServer, persist: () => Promise<void>) {
    super();
    this.settings = settings;
    this.image = image;
    this.#server = server;
    this.#persist = persist;
  }

  get state(): DeviceState {
    return this.#state;
  }

  get index(): number | undefined {
    return this.#index;
  }

  get clientPid(): number | undefined {
    return this.#client.pid;
  }

  get lastFailover(): FailoverOutcome | null {
    return this.#lastFailover;
  }

  get counters(): DeviceCounters {
    return { ...(this.#link?.counters ?? NO_COUNTERS), ...this.#counters };
  }

  get exactness(): DeviceExactness {
    return exactnessOf(this.#link === undefined ? [] : [this.#link.exactness]);
  }

  get history(): DeviceHistory {
    return { past: NO_COUNTERS, failovers: { ...this.#counters }, lastFailover: this.#lastFailover };
  }

  describeLinks(): LinkDescription[] {
    if (this.#link === undefined) return [];
    const state = this.#linkUp ? "up" : "down";
    return [{ index: 0, state, workerPid: this.#link.workerPid, generation: 1 }];
  }

  addLatenciesTo(total: number[]): void {
    this.#link?.addLatenciesTo(total);
  }

  /** @throws ErofsNbdError */
  async attach(requestedIndex: number | undefined): Promise<number> {
    try {
      const link = await this.#openLink();
      // As in NetlinkDevice: a device without a record would be found by no later manager.
      await this.#persist();
      const { sizeBytes, timeoutSeconds } = this.settings;
      const { blockSizeBytes } = this.image;
      const wanted = {
        act: "connect" as const,
        candidates: requestedIndex === undefined ? deviceIndexes() : [requestedIndex],
        blockSizeBytes,
        sizeBlocks: sizeBytes / blockSizeBytes,
        timeoutSeconds,
        serverFlags: READ_ONLY_EXPORT_FLAGS,
      };
      const index = await this.#client.connect(link.kernelFd, wanted, requestedIndex);
      this.#index = index;
      // There is no identifier on this path: only the index and the client process lead to the device.
      await this.#persist();
      await this.#waitUntilReadable(index);
      if (!this.#linkUp) throw new ErofsNbdError("ERR_WORKER", `cannot attach nbd${index}: ${this.#cause}`);
      this.#become("serving");
      return index;
    } catch (error) {
      await this.#end();
      this.#release("it could not be attached");
      throw error;
    }
  }

  async detach(): Promise<void> {
    if (this.#state === "detached") return;
    this.#become("detaching");
    await this.#end();
    this.#release("detached");
  }

  /** There are no client flags on this path: the device stays until it is detached. @throws ErofsNbdError */
  async enableAutoclear(): Promise<void> {
    throw new ErofsNbdError("ERR_NO_NETLINK", "cannot set autoclear: the device was attached with --ioctl", {
      hint: "detach it yourself after umount, or attach with --netlink",
    });
  }

  async #openLink(): Promise<OpenLink> {
    const observer = {
      firstRequest: () => {},
      readErrors: (message: string, count: number) => void this.emit("readErrors", message, count),
      exactness: () => this.#changes.look(this.exactness),
      repinned: () => void this.emit("repinned"),
      orphaned: (cause: string, silentMs: number, hung = false) => void this.#takeOver(cause, silentMs, hung),
      moved: (workerPid: number, stallMs: number) => {
        this.#counters.handovers += 1;
        this.emit("moved", workerPid, stallMs);
      },
      ended: (cause: string) => {
        this.#linkUp = false;
        this.#cause ??= cause;
      },
    };
    const request = {
      image: this.image,
      copyOnly: false,
      spread: false,
      device: this.settings.identifier,
      linkIndex: 0,
      deviceIndex: () => this.#index,
      below: nbdBelow(lowerNumber(this.image.spec)),
      counted: true,
      inFlight: () => this.#readsInFlight(),
      hangTimeoutMs: this.settings.hangTimeoutMs,
    };
    this.#link = await this.#server.openLink(request, observer, AbortSignal.timeout(START_DEADLINE_MS));
    this.#linkUp = true;
    return this.#link;
  }

  #readsInFlight(): number | undefined {
    if (this.#index === undefined) return 0;
    return countsReads(this.#index) ? readsInFlight(this.#index) : undefined;
  }

  /** The only failover on this path: the kernel takes no second socket, but another worker can have the first. */
  async #takeOver(cause: string, silentMs: number, hung: boolean): Promise<void> {
    const link = this.#link;
    if (link === undefined) return;
    const at = new Date().toISOString();
    const begunAt = performance.now() - silentMs;
    const before = this.#state;
    if (before === "serving") this.#become("taking-over");
    const taken = await link
      .takeOver(this.#life.signal, (why) => void this.emit("stalled", why))
      .catch((error: unknown) => ({ safe: false as const, why: String(error) }));
    if (this.#life.signal.aborted) return;
    if (!taken.safe) {
      this.#cause ??= `${cause}; taking over was not safe: ${taken.why}`;
      this.#linkUp = false;
      shutdown(link.kernelFd, SHUT_RDWR);
      return;
    }
    if (this.#state === "taking-over") this.#become("serving");
    this.#counters.takeovers += 1;
    this.#lastFailover = {
      result: "recovered",
      level: "takeover",
      cause,
      causeClass: hung ? "worker-hang" : "worker-exit",
      stallMs: Math.round((performance.now() - begunAt) * 10) / 10,
      at,
      strandedReads: taken.unanswered,
    };
    this.emit("failover", this.#lastFailover);
  }

  #clientExited(): void {
    if (this.#state !== "serving" && this.#state !== "taking-over") return;
    this.#life.abort();
    const cause = this.#cause ?? "the process inside NBD_DO_IT ended";
    this.#linkUp = false;
    this.#counters.failedFailovers += 1;
    this.#lastFailover = {
      result: "failed",
      level: "reconnect",
      cause: `${cause}; the ioctl path cannot reconnect, the device is lost`,
      causeClass: "link",
      stallMs: 0,
      at: new Date().toISOString(),
      strandedReads: 0,
    };
    this.#become("failed");
    this.emit("failover", this.#lastFailover);
  }

  async #waitUntilReadable(index: number): Promise<void> {
    const patience = AbortSignal.timeout(READY_DEADLINE_MS);
    let why = "it was never configured";
    while (!patience.aborted && this.#client.isRunning) {
      if (configuringThread(index) !== undefined) {
        const result = await probeDevice(index, patience);
        if (result.ok) return;
        why = result.why;
      }
      await sleep(POLL_MS);
    }
    throw new ErofsNbdError(
      "ERR_NOT_READABLE",
      `cannot read nbd${index} after attaching it: ${this.#cause ?? why}`,
      {
        hint: "the kernel log may tell more (dmesg)",
      },
    );
  }

  /**
   * Ends the device by DISCONNECT; closes the link if that did not work, and kills the process if that did not either.
   */
  async #end(): Promise<void> {
    const index = this.#index;
    if (index !== undefined && this.#client.isRunning) {
      disconnectByIoctl(index);
      await this.#client.gone(GONE_DEADLINE_MS / 2);
    }
    this.#link?.close();
    await this.#client.gone(GONE_DEADLINE_MS / 2);
    this.#client.kill();
    await this.#client.gone(GONE_DEADLINE_MS);
  }

  #release(why: string): void {
    this.#linkUp = false;
    this.#life.abort();
    this.#link?.close();
    if (this.#link !== undefined) close(this.#link.kernelFd);
    this.#become("detached");
    this.emit("released", why);
  }

  #become(state: DeviceState): void {
    const before = this.#state;
    this.#state = state;
    if (before !== state) this.emit("state", state, before);
  }
}
