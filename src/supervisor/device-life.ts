/**
 * The life of one netlink device: feeds the state table and carries out its effects.
 *
 * NetlinkDevice makes one and calls it; it hears of the links and of the kernel, and makes a Failover when one begins.
 */
import type { EventEmitter } from "eventemitter3";
import { notAttached } from "../errors.ts";
import type { DeviceView } from "../kernel/device-view.ts";
import { lowerNumber } from "../source/source-spec.ts";
import { type DeviceExactness, exactnessOf, ImageChanges } from "./device-exactness.ts";
import { type DeviceEffect, type DeviceState, type StateEvent, transition } from "./device-state.ts";
import { Failover, type FailoverListener } from "./failover/failover.ts";
import { LOOK_INTERVAL_MS, LostReads } from "./failover/lost-reads.ts";
import type { FailoverTiming } from "./failover/timing.ts";
import { KernelDevice } from "./kernel-device.ts";
import type { LinkListener } from "./links/device-link.ts";
import { deathOfLink, type LinkDeath, WITNESS } from "./links/link-death.ts";
import { LinkSet } from "./links/link-set.ts";
import type { DeviceEvents, DeviceHistory, DeviceSettings, FailoverOutcome } from "./managed-device.ts";
import type { Image, LinkServer, NbdCommands } from "./ports.ts";
import { ProgressTracker } from "./progress-tracker.ts";

/** What a device is made of. */
export interface DeviceParts {
  readonly settings: DeviceSettings;
  readonly image: Image;
  readonly nbd: NbdCommands;
  readonly server: LinkServer;
  /** Writes the record; called before the kernel gets sockets, so that the record names the workers behind them. */
  readonly persist: () => Promise<void>;
  readonly view: DeviceView;
  readonly timing: FailoverTiming;
}

export class DeviceLife {
  readonly progress: ProgressTracker;
  readonly kernel: KernelDevice;
  readonly links: LinkSet;
  readonly counters = { takeovers: 0, reconnects: 0, failedFailovers: 0, handovers: 0 };
  readonly #parts: DeviceParts;
  readonly #events: EventEmitter<DeviceEvents>;
  readonly #end = new AbortController();
  readonly #lostReads = new LostReads();
  readonly #changes = new ImageChanges((change) => this.#events.emit("imageChanged", change));
  readonly #look: NodeJS.Timeout;
  #state: DeviceState = "attaching";
  #failover: Failover | undefined;
  #lastFailover: FailoverOutcome | null = null;
  /** The latest death, in the words of its first witness. */
  #lastDeath: LinkDeath = deathOfLink("a link was found dead", WITNESS.kernel);
  #stalledWhy = "";
  #endReason = "detached";
  #disconnected: Promise<void> | undefined;

  /** `events` is what the device tells its manager by. */
  constructor(parts: DeviceParts, events: EventEmitter<DeviceEvents>) {
    const { settings, image, nbd, server, view } = parts;
    this.#parts = parts;
    this.#events = events;
    this.progress = new ProgressTracker(nbd, settings.identifier);
    this.kernel = new KernelDevice(settings, nbd, view, this.progress);
    const deviceIndex = (): number | undefined => this.kernel.index;
    const below = (): readonly number[] => view.nbdBelow(lowerNumber(image.spec));
    const inFlight = (): number | undefined => this.kernel.trustedReadsInFlight;
    const isCounted = (): boolean => this.kernel.isCounted;
    this.links = new LinkSet(
      { settings, image, deviceIndex, below, inFlight, isCounted },
      server,
      this.#linkListener,
    );
    this.#look = setInterval(() => this.#lookForLostReads(), LOOK_INTERVAL_MS).unref();
  }

  get state(): DeviceState {
    return this.#state;
  }

  get lastFailover(): FailoverOutcome | null {
    return this.#lastFailover;
  }

  get stalledReason(): string | null {
    return this.#state === "stalled" ? this.#stalledWhy : null;
  }

  get exactness(): DeviceExactness {
    return exactnessOf(this.links.exactness);
  }

  /** Aborts when the device is released. */
  get signal(): AbortSignal {
    return this.#end.signal;
  }

  get silentMs(): number {
    return this.#state === "serving" || this.#state === "detached" ? 0 : this.progress.silentMs;
  }

  get waitingMs(): number {
    if (this.#state === "serving" || this.#failover === undefined || this.#failover.isReported) return 0;
    return this.kernel.readsInFlight > 0 ? this.#failover.elapsedMs : 0;
  }

  /** What the device did under a former manager. */
  recall({ past, failovers, lastFailover }: DeviceHistory): void {
    this.links.remember(past);
    Object.assign(this.counters, failovers);
    this.#lastFailover = lastFailover;
  }

  /** The device of a former manager goes on; if links are missing it begins with a failover, for this cause. */
  resume(cause: string): void {
    this.#lastDeath = { cause, witness: WITNESS.exit, causeClass: "manager", silentMs: 0 };
    this.dispatch("connected");
  }

  /** Ends the device. Resolves when the kernel has let it go. @throws NetlinkError */
  async detach(): Promise<void> {
    this.dispatch("detach-requested");
    await this.#disconnected;
  }

  /** @throws ErofsNbdError ERR_NOT_ATTACHED */
  requireAttached(): void {
    if (this.kernel.index !== undefined && this.#state !== "detached") return;
    throw notAttached("change the device");
  }

  dispatch(event: StateEvent): void {
    const before = this.#state;
    const { next, effects } = transition(before, event);
    this.progress.step();
    this.#state = next;
    if (next !== before) this.#events.emit("state", next, before);
    for (const effect of effects) this.#effects[effect]();
  }

  readonly #effects: Record<DeviceEffect, () => void> = {
    "check-links": () => this.#checkLinks(),
    "begin-failover": () => this.#beginFailover(),
    escalate: () => this.#failover?.escalate(this.#lastDeath),
    "announce-stall": () => {},
    "give-links-up": () => this.links.shutDownAll(),
    "report-recovered": () => void this.#failover?.recovered(),
    "report-failed": () => this.#failover?.failed(),
    "announce-revival": () => {
      this.links.forgetLinkDead();
      this.#failover?.stop();
      this.#events.emit("revived");
    },
    "stop-failover": () => this.#failover?.stop(),
    disconnect: () => {
      this.#disconnected = this.#disconnect();
    },
    release: () => this.#release(),
  };

  readonly #linkListener: LinkListener = {
    lost: (death) => this.#linkLost(death),
    orphaned: (death) => this.#workerLost(death),
    explained: (death) => this.#failover?.explain(death),
    disconnected: () =>
      this.#ended("the kernel disconnected it: its last user closed it, or another program disconnected it"),
    moved: (workerPid, stallMs) => {
      this.counters.handovers += 1;
      this.#events.emit("moved", workerPid, stallMs);
    },
    readErrors: (message, count) => this.#events.emit("readErrors", message, count),
    exactness: () => this.#changes.look(this.exactness),
    repinned: () => this.#events.emit("repinned"),
  };

  readonly #failoverListener: FailoverListener = {
    linksRestored: () => this.dispatch("links-restored"),
    stalled: (why) => {
      this.#stalledWhy = why;
      this.dispatch("attempts-spent");
      this.#events.emit("stalled", why);
    },
    deadlinePassed: () => this.dispatch("deadline-passed"),
    deviceEnded: (why) => this.#ended(why),
    attemptFailed: (why, attempt) => this.#events.emit("attemptFailed", why, attempt),
    broken: (why) => this.#events.emit("stalled", why),
    finished: (outcome) => {
      const isTakeover = outcome.level === "takeover";
      if (outcome.result === "failed") this.counters.failedFailovers += 1;
      else this.counters[isTakeover ? "takeovers" : "reconnects"] += 1;
      this.#lastFailover = outcome;
      this.#events.emit("failover", outcome);
    },
  };

  #linkLost(death: LinkDeath): void {
    if (this.#state === "reconnecting") this.#failover?.explain(death);
    this.#lastDeath = death;
    this.dispatch("link-lost");
  }

  #workerLost(death: LinkDeath): void {
    this.#lastDeath = death;
    this.dispatch("worker-lost");
  }

  /** Links may have died while their deaths were ignored by the state table. */
  #checkLinks(): void {
    this.links.check("a link was found dead");
    const death = { ...this.#lastDeath, silentMs: 0 };
    if (this.links.dead.length > 0) return this.#linkLost(death);
    const causeClass = death.causeClass === "worker-hang" ? "worker-hang" : "worker-exit";
    if (this.links.orphaned.length > 0) this.#workerLost({ ...death, witness: WITNESS.exit, causeClass });
  }

  #beginFailover(): void {
    this.#failover?.close();
    this.requireAttached();
    const parts = {
      kernel: this.kernel,
      links: this.links,
      progress: this.progress,
      timing: this.#parts.timing,
      record: () => this.#persistIfPossible(),
    };
    this.#failover = new Failover(this.#lastDeath, parts, this.#parts.settings, this.#failoverListener);
    this.#failover.start();
  }

  /** In an outage reads wait: a record that cannot be written must not make them wait longer. */
  async #persistIfPossible(): Promise<void> {
    try {
      await this.#parts.persist();
    } catch (error) {
      this.#events.emit("recordFailed", error instanceof Error ? error.message : String(error));
    }
  }

  #lookForLostReads(): void {
    if (this.#state !== "serving") return;
    const quiet = this.links.areQuiet;
    // Read less of sysfs where the answer is clear already: there may be hundreds of devices.
    const waits = quiet && this.kernel.readsInFlight > 0;
    const inFlight = waits ? this.kernel.trustedReadsInFlight : 0;
    if (!this.#lostReads.look({ inFlight, quiet, requests: this.links.counters.requests })) return;
    const indexes = this.links.describe().map(({ index }) => index);
    this.links.condemn(indexes, `${inFlight} reads were in flight and no worker had them`);
  }

  async #disconnect(): Promise<void> {
    try {
      await this.kernel.disconnect();
    } catch (error) {
      this.dispatch("disconnect-refused");
      throw error;
    }
    this.#endReason = "detached";
    await this.kernel.gone();
    this.dispatch("disconnected");
  }

  #ended(why: string): void {
    if (this.#state !== "detaching") this.#endReason = why;
    this.dispatch("device-ended");
  }

  #release(): void {
    this.#end.abort();
    clearInterval(this.#look);
    this.#failover?.close();
    this.links.release();
    this.#events.emit("released", this.#endReason);
  }
}
