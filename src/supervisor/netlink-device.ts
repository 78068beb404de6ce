/**
 * One netlink device as the manager sees it: attaching, going on with one of a former manager, detaching, figures.
 *
 * The manager owns one per device; DeviceLife does what happens in between. Nothing here touches the device or what is
 * mounted on it: block reads are made by processes that can be lost.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import { ErofsNbdError } from "../errors.ts";
import { type DeviceView, SYSFS_VIEW } from "../kernel/device-view.ts";
import type { DeviceExactness } from "./device-exactness.ts";
import { DeviceLife } from "./device-life.ts";
import type { DeviceState } from "./device-state.ts";
import { FAILOVER_TIMING, type FailoverTiming } from "./failover/timing.ts";
import type { LinkDescription } from "./links/device-link.ts";
import type {
  DeviceCounters,
  DeviceEvents,
  DeviceHistory,
  DeviceSettings,
  FailoverOutcome,
  ManagedDevice,
} from "./managed-device.ts";
import type { FoundLink, Image, LinkServer, NbdCommands } from "./ports.ts";

/** What tests replace. */
export interface DeviceSurroundings {
  readonly view?: DeviceView;
  readonly timing?: FailoverTiming;
  /** How long an attach waits until the device can be read. */
  readonly readyDeadlineMs?: number;
}

const READY_DEADLINE_MS = 30_000;
/** How often to look for a moment without a read in flight. */
const IDLE_POLL_MS = 250;

export class NetlinkDevice extends EventEmitter<DeviceEvents> implements ManagedDevice {
  readonly interface = "netlink";
  readonly clientPid = undefined;
  readonly settings: DeviceSettings;
  readonly image: Image;
  readonly #readyDeadlineMs: number;
  readonly #persist: () => Promise<void>;
  readonly #life: DeviceLife;

  /** `persist` writes the record. */
  constructor(
    settings: DeviceSettings,
    image: Image,
    nbd: NbdCommands,
    server: LinkServer,
    persist: () => Promise<void>,
    surroundings: DeviceSurroundings = {},
  ) {
    super();
    const { view = SYSFS_VIEW, timing = FAILOVER_TIMING, readyDeadlineMs = READY_DEADLINE_MS } = surroundings;
    this.settings = settings;
    this.image = image;
    this.#readyDeadlineMs = readyDeadlineMs;
    this.#persist = persist;
    this.#life = new DeviceLife({ settings, image, nbd, server, persist, view, timing }, this);
  }

  get state(): DeviceState {
    return this.#life.state;
  }

  get index(): number | undefined {
    return this.#life.kernel.index;
  }

  get lastFailover(): FailoverOutcome | null {
    return this.#life.lastFailover;
  }

  get stalledReason(): string | null {
    return this.#life.stalledReason;
  }

  get exactness(): DeviceExactness {
    return this.#life.exactness;
  }

  get counters(): DeviceCounters {
    return { ...this.#life.links.counters, ...this.#life.counters };
  }

  get silentMs(): number {
    return this.#life.silentMs;
  }

  get waitingMs(): number {
    return this.#life.waitingMs;
  }

  get history(): DeviceHistory {
    const { links, counters, lastFailover } = this.#life;
    return { past: { ...links.past }, failovers: { ...counters }, lastFailover };
  }

  describeLinks(): LinkDescription[] {
    return this.#life.links.describe();
  }

  addLatenciesTo(total: number[]): void {
    this.#life.links.addLatenciesTo(total);
  }

  /**
   * Connects a device and returns its index once it can be read: size visible, partition scan over, first block read.
   * Undoes everything on failure.
   * @throws NetlinkError, ErofsNbdError
   */
  async attach(requestedIndex: number | undefined): Promise<number> {
    // The record is on disk before each act whose result a crash of the manager would leave to a later one. The store
    // does not write it again unless it has changed.
    try {
      // Before a worker gets a link: commands start a manager for records, and without one the worker would stay.
      await this.#persist();
      const sockets: number[] = [];
      for (const index of this.#life.links.dead) {
        this.#life.progress.step();
        const patience = AbortSignal.timeout(READY_DEADLINE_MS);
        sockets.push(await this.#life.links.replace(index, patience, index > 0));
      }
      // Before the kernel has the device: a later manager recognises it by the identifier in its record, and must not
      // end the workers that the record names where no others can serve it. They may not be those of above.
      await this.#persist();
      const index = await this.#life.kernel.connect(requestedIndex, this.image.blockSizeBytes, sockets);
      // From here on a dying link is a failover: nothing below may be what that failover waits for.
      this.#life.dispatch("connected");
      // With the index. The identifier finds the device as well, but by a search of all indexes for each device, which
      // the reads of hundreds of devices would wait for.
      await this.#persist();
      this.#life.progress.step();
      await this.#life.kernel.makeReadable(this.#readyDeadlineMs, this.#life.signal);
      this.#life.links.confirm();
      return index;
    } catch (error) {
      await this.#undoAttach();
      throw error;
    }
  }

  async #undoAttach(): Promise<void> {
    if (this.#life.kernel.find()) {
      if (this.state === "attaching") this.#life.dispatch("connected");
      await this.detach().catch(() => {});
    } else this.#life.dispatch("device-ended");
    if (this.state === "attaching") this.#life.dispatch("connect-refused");
  }

  /**
   * Goes on with a device that a former manager connected. Links that workers still serve stay as they are. If some
   * are missing, it begins with a failover, for this cause.
   */
  async adopt(
    index: number,
    found: readonly FoundLink[],
    cause: string,
    history?: DeviceHistory,
  ): Promise<void> {
    const { kernel, links } = this.#life;
    kernel.adopt(index);
    if (history !== undefined) this.#life.recall(history);
    links.condemn(await links.adopt(found), cause);
    this.#life.resume(cause);
    void this.#finishIoTimeout().catch((error: unknown) => this.emit("timerFailed", String(error)));
  }

  /**
   * The former manager may have died before it set the block layer's timer, which now has to wait for an idle moment.
   */
  async #finishIoTimeout(): Promise<void> {
    while (!this.#life.signal.aborted && !this.#life.kernel.hasIoTimeout) {
      if (this.state === "serving" && this.#life.links.areQuiet && this.#life.kernel.readsInFlight === 0)
        return this.#life.kernel.setIoTimeout();
      await sleep(IDLE_POLL_MS, undefined, { ref: false });
    }
  }

  /** The kernel reported a dead link of this device. The message may be late, double, or about a former link. */
  linkDead(): void {
    void this.#life.links.linkDead().then(() => {
      // Nothing died: the message was about a link that was replaced, and says nothing about the next death.
      if (this.state === "serving") this.#life.links.forgetLinkDead();
    });
  }

  /** Makes every live link die, as a broken socket would: for tests of what comes then. */
  cutLinks(): void {
    this.#life.links.shutDownAll();
  }

  /** Kernel messages may have been lost: checks every link. */
  resynchronise(): void {
    void this.#life.links.recheck("a link was found dead");
  }

  /** From now on the kernel ends the device with its last close. @throws NetlinkError, ErofsNbdError */
  async enableAutoclear(): Promise<void> {
    this.#life.requireAttached();
    this.settings.autoclear = true;
    try {
      await this.#persist();
      await this.#life.kernel.reconfigure();
    } catch (error) {
      // Or the next failover would silently set what the caller was told has failed.
      this.settings.autoclear = false;
      throw error;
    }
  }

  /**
   * Ends the device; the caller has checked that it is not in use. Resolves when the kernel has let it go.
   * @throws NetlinkError
   */
  async detach(): Promise<void> {
    if (this.state === "detached") return;
    if (this.state === "attaching") {
      throw new ErofsNbdError("ERR_DEVICE_BUSY", "cannot detach a device that is still being attached", {
        hint: "try again in a moment",
      });
    }
    await this.#life.detach();
  }
}
