/**
 * A leftover device: a dead manager attached it, and this one can show and end it, but not give it new links.
 *
 * Made by adoption. There are two kinds. The kernel takes no second socket for an ioctl device. The image of a netlink
 * device may be gone from its path, or be on a file system that does not answer, while its old worker still has it open
 * and is left to serve. When that worker ends, the device is stalled until an attach hands the image in or the file
 * system answers; then the manager continues it (`leave`).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import { ErofsNbdError } from "../../errors.ts";
import { type DeviceView, SYSFS_VIEW } from "../../kernel/device-view.ts";
import type { DeviceExactness } from "../../supervisor/device-exactness.ts";
import type { DeviceState } from "../../supervisor/device-state.ts";
import { disconnectByIoctl } from "../../supervisor/ioctl/ioctl-client.ts";
import type { LinkDescription } from "../../supervisor/links/device-link.ts";
import type {
  DeviceCounters,
  DeviceEvents,
  DeviceHistory,
  DeviceSettings,
  FailoverOutcome,
  ManagedDevice,
} from "../../supervisor/managed-device.ts";
import type { Image, NbdCommands } from "../../supervisor/ports.ts";
import { isAlive, type ProcessIdentity } from "../../sys/process-identity.ts";
import { NO_COUNTERS } from "../../worker-protocol/link-end.ts";
import { type DeviceRecord, settingsOf } from "../records/record.ts";

const WATCH_MS = 1000;
const GONE_DEADLINE_MS = 5000;
const POLL_MS = 20;

/** Which workers may still serve a leftover device, and why no other can. */
export interface LeftoverService {
  readonly servers: readonly ProcessIdentity[];
  readonly why: string;
  /** Set where the device could be continued with its image: why that is lost, and what to do about it. */
  readonly awaits?: string | undefined;
}

/** How a leftover device sees whether the kernel still has it. */
export type LeftoverView = Pick<DeviceView, "backendOf" | "configuringThread">;

export class LeftoverDevice extends EventEmitter<DeviceEvents> implements ManagedDevice {
  readonly interface: "netlink" | "ioctl";
  readonly settings: DeviceSettings;
  readonly image: Image;
  readonly index: number;
  readonly clientPid: number | undefined;
  readonly counters: DeviceCounters = {
    ...NO_COUNTERS,
    takeovers: 0,
    reconnects: 0,
    failedFailovers: 0,
    handovers: 0,
  };
  readonly lastFailover: FailoverOutcome | null = null;
  readonly exactness: DeviceExactness = { exact: null, imageChange: null };
  readonly waitingMs = 0;
  readonly silentMs = 0;
  readonly history: DeviceHistory;
  readonly #record: DeviceRecord;
  readonly #service: LeftoverService;
  readonly #gone = new AbortController();
  #awaits: string | undefined;
  readonly #nbd: Pick<NbdCommands, "disconnect">;
  readonly #view: LeftoverView;
  readonly #watch: NodeJS.Timeout;
  #state: DeviceState = "serving";

  constructor(
    record: DeviceRecord,
    index: number,
    image: Image,
    service: LeftoverService,
    nbd: Pick<NbdCommands, "disconnect">,
    view: LeftoverView = SYSFS_VIEW,
  ) {
    super();
    this.interface = record.interface;
    this.settings = settingsOf(record);
    this.image = image;
    this.index = index;
    this.clientPid = record.client?.pid;
    this.#record = record;
    this.#service = service;
    this.#awaits = service.awaits;
    this.history = record.history;
    this.#nbd = nbd;
    this.#view = view;
    if (this.isAwaitingImage) this.#state = "stalled";
    this.#watch = setInterval(() => this.#look(), WATCH_MS);
  }

  /** No worker serves it, and it can be continued with its image. */
  get isAwaitingImage(): boolean {
    return this.#awaits !== undefined && !this.#service.servers.some(isAlive);
  }

  /** Aborted when the device has ended, or is continued by another object. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  get stalledReason(): string | null {
    return this.#state === "stalled" ? (this.#awaits ?? null) : null;
  }

  /** Why its image is lost now; undefined: it cannot be continued any more. */
  lose(awaits: string | undefined): void {
    this.#awaits = awaits;
    if (this.#state !== "stalled") return;
    if (awaits === undefined) this.#become("failed");
    this.emit("stalled", awaits ?? `${this.#service.why}: detach it`);
  }

  /** Gives the device up, for another object that continues it. Returns its record. */
  leave(): DeviceRecord {
    clearInterval(this.#watch);
    this.#gone.abort();
    this.removeAllListeners();
    return this.#record;
  }

  get state(): DeviceState {
    return this.#state;
  }

  describeLinks(): LinkDescription[] {
    const serving = this.#service.servers.find(isAlive);
    return serving === undefined ? [] : [{ index: 0, state: "up", workerPid: serving.pid, generation: 1 }];
  }

  /** Its journals are not mapped here. */
  addLatenciesTo(): void {}

  async attach(): Promise<number> {
    throw new ErofsNbdError("ERR_INTERNAL", "cannot attach a device that is attached already");
  }

  async enableAutoclear(): Promise<void> {
    throw new ErofsNbdError(
      "ERR_NOT_ATTACHED",
      `cannot change nbd${this.index}: a former manager left it behind`,
      {
        hint: "detach it and attach its image again",
      },
    );
  }

  async detach(): Promise<void> {
    if (this.#state === "detached") return;
    const before = this.#state;
    this.#become("detaching");
    try {
      // Another program may have the index by now.
      if (!this.#exists()) return this.#release("detached");
      if (this.interface === "ioctl") disconnectByIoctl(this.index);
      else await this.#nbd.disconnect({ index: this.index, backendIdentifier: this.settings.identifier });
    } catch (error) {
      this.#become(before);
      throw error;
    }
    const end = performance.now() + GONE_DEADLINE_MS;
    while (this.#exists() && performance.now() < end) await sleep(POLL_MS);
    const { client } = this.#record;
    if (client !== null && isAlive(client)) process.kill(client.pid, "SIGKILL");
    this.#release("detached");
  }

  #exists(): boolean {
    if (this.interface === "netlink") return this.#view.backendOf(this.index) === this.settings.identifier;
    const { client } = this.#record;
    return client !== null && isAlive(client) && this.#view.configuringThread(this.index) === client.pid;
  }

  #look(): void {
    if (this.#state === "detaching") return;
    if (!this.#exists()) return this.#release("it ended while no manager had it");
    if (this.#state !== "serving" || this.#service.servers.some(isAlive)) return;
    const { why } = this.#service;
    this.#become(this.#awaits === undefined ? "failed" : "stalled");
    this.emit("stalled", this.#awaits ?? `its worker died, and ${why}: detach it`);
  }

  #release(why: string): void {
    if (this.#state === "detached") return;
    clearInterval(this.#watch);
    this.#gone.abort();
    this.#become("detached");
    this.emit("released", why);
  }

  #become(state: DeviceState): void {
    const before = this.#state;
    this.#state = state;
    if (before !== state) this.emit("state", state, before);
  }
}
