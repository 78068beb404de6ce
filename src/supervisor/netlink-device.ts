/**
 * One netlink device, from CONNECT to its end: feeds the state table and carries its effects out.
 *
 * Runs in the manager's process, one per device. Nothing here touches the device or what is mounted on it: block
 * reads are made by processes that can be lost. Every RECONFIGURE carries the identifier, one is in flight at a
 * time, and an acknowledged one counts for nothing until a request has come over the fresh socket.
 */
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import pRetry from "p-retry";
import { NBD_CFLAG_DISCONNECT_ON_CLOSE, NetlinkError } from "../../netlink/index.ts";
import { ErofsNbdError } from "../errors.ts";
import { type DeviceView, SYSFS_VIEW } from "../kernel/device-view.ts";
import { READ_ONLY_EXPORT_FLAGS } from "../nbd/wire.ts";
import { type DeviceExactness, exactnessOf, ImageChanges } from "./device-exactness.ts";
import { type DeviceEffect, type DeviceEvent, type DeviceState, transition } from "./device-state.ts";
import { DeviceEndedError, FAILOVER_TIMING, type FailoverTiming, restoreLinks } from "./failover/failover.ts";
import { LOOK_INTERVAL_MS, LostReads } from "./failover/lost-reads.ts";
import { causeClassOf, RunningFailover } from "./failover/running-failover.ts";
import { StallMeter } from "./failover/stall-meter.ts";
import { type LinkDescription, LinkSet, WITNESS, type Witness } from "./links/link-set.ts";
import type {
  DeviceCounters,
  DeviceEvents,
  DeviceHistory,
  DeviceSettings,
  FailoverCauseClass,
  FailoverOutcome,
  ManagedDevice,
} from "./managed-device.ts";
import type { FoundLink, Image, LinkRequest, LinkServer, NbdCommands } from "./ports.ts";
import { ProgressTracker } from "./progress-tracker.ts";
import { waitUntilReadable } from "./readiness.ts";

/** What tests replace. */
export interface SupervisorSurroundings {
  readonly view?: DeviceView;
  readonly timing?: FailoverTiming;
  /** How long an attach waits until the device can be read. */
  readonly readyDeadlineMs?: number;
}

const READY_DEADLINE_MS = 30_000;
const GONE_DEADLINE_MS = 5000;
const BUSY_RETRIES = { retries: 8, minTimeout: 50, maxTimeout: 1000, factor: 2, randomize: true };
const POLL_MS = 10;
/** Twice what the block layer's timer can be late by (blk_rq_timeout: it is rounded to about a second). */
const REQUEUE_GRACE_MS = 3000;
/** LINK_DEAD is queued some instructions before the socket is marked dead (nbd_mark_nsock_dead). */
const RECHECK_MS = [0, 10, 50];

/** How often to look for a moment without a read in flight. */
const CALM_POLL_MS = 250;

export class NetlinkDevice extends EventEmitter<DeviceEvents> implements ManagedDevice {
  readonly interface = "netlink";
  readonly clientPid = undefined;
  readonly settings: DeviceSettings;
  readonly image: Image;
  readonly #progress: ProgressTracker;
  readonly #nbd: NbdCommands;
  readonly #view: DeviceView;
  readonly #timing: FailoverTiming;
  readonly #readyDeadlineMs: number;
  readonly #links: LinkSet;
  /** Called before the kernel is given sockets, so that the record names the workers behind them. */
  readonly #persist: () => Promise<void>;
  readonly #life = new AbortController();
  readonly #lostReads = new LostReads();
  readonly #changes = new ImageChanges((change) => this.emit("imageChanged", change));
  readonly #look: NodeJS.Timeout;
  readonly #counters = { takeovers: 0, reconnects: 0, failedFailovers: 0, handovers: 0 };
  #state: DeviceState = "attaching";
  #index: number | undefined;
  #running: RunningFailover | undefined;
  #lastFailover: FailoverOutcome | null = null;
  #linkDeadCount = 0;
  #copyOnly = false;
  /** What the first witness of the latest death said. */
  #firstWord: { cause: string; witness: Witness; causeClass: FailoverCauseClass } = {
    cause: "a link was found dead",
    witness: WITNESS.kernel,
    causeClass: "link",
  };
  /** How long reads had stood still before the latest death was noticed. */
  #silentMs = 0;
  /** Why a takeover became a reconnect. */
  #escalation: string | undefined;
  #stalledWhy = "";
  /** When the kernel's count of reads is of the present link alone again: reads of a dead one are in it until they go out anew. */
  #booksCloseAt = 0;
  #endReason = "detached";
  #disconnected: Promise<void> | undefined;

  constructor(
    settings: DeviceSettings,
    image: Image,
    nbd: NbdCommands,
    server: LinkServer,
    persist: () => Promise<void>,
    surroundings: SupervisorSurroundings = {},
  ) {
    super();
    this.settings = settings;
    this.image = image;
    this.#nbd = nbd;
    this.#progress = new ProgressTracker(nbd, settings.identifier);
    this.#view = surroundings.view ?? SYSFS_VIEW;
    this.#timing = surroundings.timing ?? FAILOVER_TIMING;
    this.#readyDeadlineMs = surroundings.readyDeadlineMs ?? READY_DEADLINE_MS;
    this.#persist = persist;
    this.#look = setInterval(() => this.#lookForLostReads(), LOOK_INTERVAL_MS).unref();
    this.#links = new LinkSet(settings.connections, server, {
      lost: (cause, witness) => this.#linkLost(cause, witness),
      orphaned: (cause, silentMs, hung) => this.#workerLost(cause, silentMs, hung),
      moved: (workerPid, stallMs) => {
        this.#counters.handovers += 1;
        this.emit("moved", workerPid, stallMs);
      },
      explained: (cause, witness) => this.#running?.explain(cause, witness),
      disconnected: () =>
        this.#ended("the kernel disconnected it: its last user closed it, or somebody disconnected it"),
      mustCopy: () => {
        this.#copyOnly = true;
      },
      readErrors: (message, count) => this.emit("readErrors", message, count),
      exactness: () => this.#changes.look(this.exactness),
      repinned: () => this.emit("repinned"),
    });
  }

  get state(): DeviceState {
    return this.#state;
  }

  get index(): number | undefined {
    return this.#index;
  }

  get lastFailover(): FailoverOutcome | null {
    return this.#lastFailover;
  }

  /** Why nobody serves, where that is so. */
  get stalledReason(): string | null {
    return this.#state === "stalled" ? this.#stalledWhy : null;
  }

  get exactness(): DeviceExactness {
    return exactnessOf(this.#links.exactness);
  }

  get counters(): DeviceCounters {
    return { ...this.#links.counters, ...this.#counters };
  }

  get silentMs(): number {
    return this.#state === "serving" || this.#state === "detached" ? 0 : this.#progress.silentMs;
  }

  describeLinks(): LinkDescription[] {
    return this.#links.describe();
  }

  addLatenciesTo(total: number[]): void {
    this.#links.addLatenciesTo(total);
  }

  get waitingMs(): number {
    const running = this.#running;
    if (this.#state === "serving" || running === undefined || running.isReported || this.#index === undefined)
      return 0;
    return this.#view.readsInFlight(this.#index) > 0 ? running.elapsedMs : 0;
  }

  /**
   * Connects a device and returns its index once it can be read: size visible, partition scan over, first block in.
   * Undoes everything when it cannot.
   * @throws NetlinkError, ErofsNbdError
   */
  async attach(requestedIndex: number | undefined): Promise<number> {
    try {
      await this.#persist();
      const index = await this.#connect(requestedIndex);
      this.#index = index;
      // From here on a dying link is a failover: nothing below may be what that failover waits for.
      this.#dispatch("connected");
      await this.#persist();
      this.#progress.step();
      await this.#view.setIoTimeout(index, this.settings.ioTimeoutMs);
      const wanted = { index, sizeBytes: this.settings.sizeBytes, deadlineMs: this.#readyDeadlineMs };
      await waitUntilReadable(wanted, this.#view, this.#life.signal);
      this.#links.confirm();
      return index;
    } catch (error) {
      await this.#undoAttach();
      throw error;
    }
  }

  /**
   * Goes on with a device that a former manager connected. Links that workers still serve stay as they are; where
   * there are none, it begins with a failover, for this cause.
   */
  async adopt(
    index: number,
    found: readonly FoundLink[],
    cause: string,
    history?: DeviceHistory,
  ): Promise<void> {
    this.#index = index;
    if (history !== undefined) {
      this.#links.remember(history.past);
      Object.assign(this.#counters, history.failovers);
      this.#lastFailover = history.lastFailover;
    }
    this.#copyOnly = found.some((link) => link.copyOnly);
    const strangers: number[] = [];
    for (const link of found) {
      if (!(await this.#links.adopt(link, this.#linkRequest(link.slot)))) strangers.push(link.slot);
    }
    this.#links.condemn(strangers, cause);
    this.#firstWord = { cause, witness: WITNESS.exit, causeClass: "manager" };
    this.#dispatch("connected");
    void this.#finishIoTimeout(index).catch((error: unknown) => this.emit("timerFailed", String(error)));
  }

  /** The manager before may have died before it came to set the timer, which has to wait for a calm moment now. */
  async #finishIoTimeout(index: number): Promise<void> {
    const { ioTimeoutMs } = this.settings;
    while (!this.#life.signal.aborted && this.#view.ioTimeoutMs(index) !== ioTimeoutMs) {
      if (this.#state === "serving" && this.#links.areQuiet && this.#view.readsInFlight(index) === 0)
        return this.#view.setIoTimeout(index, ioTimeoutMs);
      await sleep(CALM_POLL_MS, undefined, { ref: false });
    }
  }

  get history(): DeviceHistory {
    const { past } = this.#links;
    return { past: { ...past }, failovers: { ...this.#counters }, lastFailover: this.#lastFailover };
  }

  /** A LINK_DEAD for this device's index. It may be late, double, or about a generation that is long gone. */
  linkDead(): void {
    this.#linkDeadCount += 1;
    void this.#recheck("the kernel reported a dead link").then(() => {
      // Nothing died: it spoke of a link that was replaced long ago, and is no witness of what comes next.
      if (this.#state === "serving") this.#linkDeadCount = 0;
    });
  }

  /** Makes every live link die, as a broken socket would: for those who test what comes then. */
  cutLinks(): void {
    this.#links.shutDownAll();
  }

  /** Messages may have been lost: look at every link. */
  resynchronise(): void {
    void this.#recheck("a link was found dead");
  }

  /** From now on the kernel ends the device with its last close. @throws NetlinkError */
  async enableAutoclear(): Promise<void> {
    const index = this.#connectedIndex();
    this.settings.autoclear = true;
    try {
      await this.#persist();
      await this.#nbd
        .reconfigure({ index, backendIdentifier: this.settings.identifier, ...this.#kernelSettings() })
        .finally(() => this.#progress.step());
    } catch (error) {
      // Or the next failover would set in silence what the caller was told has failed.
      this.settings.autoclear = false;
      throw error;
    }
  }

  /** Ends the device. Whether it is in use is for the caller to ask. Resolves when the kernel has let it go. @throws NetlinkError */
  async detach(): Promise<void> {
    if (this.#state === "detached") return;
    if (this.#state === "attaching") {
      throw new ErofsNbdError("ERR_DEVICE_BUSY", "cannot detach a device that is still being attached", {
        hint: "try again in a moment",
      });
    }
    this.#dispatch("detach-requested");
    await this.#disconnected;
  }

  #dispatch(event: DeviceEvent): void {
    const before = this.#state;
    const { next, effects } = transition(before, event);
    this.#progress.step();
    this.#state = next;
    if (next !== before) this.emit("state", next, before);
    for (const effect of effects) this.#effects[effect]();
  }

  readonly #effects: Record<DeviceEffect, () => void> = {
    "check-links": () => this.#checkLinks(),
    "begin-failover": () => this.#beginFailover(),
    escalate: () => {
      this.#booksCloseAt = Number.POSITIVE_INFINITY;
      this.#running?.escalate(this.#escalation);
    },
    "announce-stall": () => {},
    "give-links-up": () => this.#links.shutDownAll(),
    "report-recovered": () => void this.#reportRecovered(),
    "report-failed": () => this.#report(this.#running, "failed"),
    "announce-revival": () => {
      this.#linkDeadCount = 0;
      this.#running?.stop();
      this.emit("revived");
    },
    "stop-failover": () => this.#running?.stop(),
    disconnect: () => {
      this.#disconnected = this.#disconnect();
    },
    release: () => this.#release(),
  };

  async #connect(requestedIndex: number | undefined): Promise<number> {
    const sockets: number[] = [];
    for (const slot of this.#links.deadSlots) {
      this.#progress.step();
      const request = { ...this.#linkRequest(slot), spread: slot > 0 };
      sockets.push(await this.#links.replace(slot, request, AbortSignal.timeout(READY_DEADLINE_MS)));
    }
    await this.#persist();
    const { identifier, sizeBytes, timeoutSeconds } = this.settings;
    const request = {
      index: requestedIndex,
      sizeBytes,
      blockSizeBytes: this.image.blockSizeBytes,
      timeoutSeconds,
      serverFlags: READ_ONLY_EXPORT_FLAGS,
      sockets,
      backendIdentifier: identifier,
      ...this.#kernelSettings(),
    };
    // EBUSY comes before the sockets are looked at, so they serve for the next attempt as well.
    const { index } = await pRetry(() => this.#nbd.connect(request), {
      ...BUSY_RETRIES,
      onFailedAttempt: () => this.#progress.step(),
      shouldRetry: ({ error }) => this.#isMerelyOpen(error, requestedIndex),
    });
    return index;
  }

  /** Whether an index is busy only because somebody (udev, blkid) has the unconfigured node open: that passes. */
  #isMerelyOpen(error: unknown, index: number | undefined): boolean {
    if (index === undefined || !(error instanceof NetlinkError)) return false;
    return error.errno === constants.errno.EBUSY && this.#view.configuringThread(index) === undefined;
  }

  /** A CONNECT whose answer was lost may have worked: the identifier tells. */
  async #undoAttach(): Promise<void> {
    const index = this.#index ?? this.#view.findByBackend(this.settings.identifier);
    if (index !== undefined && this.#view.backendOf(index) === this.settings.identifier) {
      this.#index = index;
      if (this.#state === "attaching") this.#dispatch("connected");
      await this.detach().catch(() => {});
    } else this.#dispatch("device-ended");
    if (this.#state === "attaching") this.#dispatch("connect-refused");
  }

  #linkRequest(slot: number): LinkRequest {
    const { identifier, connections, hangTimeoutMs } = this.settings;
    return {
      image: this.image,
      copyOnly: this.#copyOnly,
      spread: false,
      device: identifier,
      slot,
      counted: connections === 1,
      inFlight: () => this.#readsInFlight(),
      hangTimeoutMs,
    };
  }

  #readsInFlight(): number | undefined {
    const index = this.#index;
    // Nothing is in flight on a device that does not exist yet.
    if (index === undefined) return 0;
    if (performance.now() < this.#booksCloseAt || !this.#view.countsReads(index)) return undefined;
    return this.#view.readsInFlight(index);
  }

  #kernelSettings(): { deadConnectionTimeoutSeconds: number; clientFlags: number } {
    return {
      deadConnectionTimeoutSeconds: this.settings.deadTimeoutSeconds,
      clientFlags: this.settings.autoclear ? NBD_CFLAG_DISCONNECT_ON_CLOSE : 0,
    };
  }

  #connectedIndex(): number {
    if (this.#index === undefined || this.#state === "detached") {
      throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot change a device that is not attached");
    }
    return this.#index;
  }

  #lookForLostReads(): void {
    if (this.#state !== "serving" || this.#index === undefined) return;
    const quiet = this.#links.areQuiet;
    // The rest is asked for only where the answer before it leaves a doubt: there may be hundreds of us.
    const waits = quiet && this.#view.readsInFlight(this.#index) > 0;
    const look = {
      inFlight: waits ? this.#readsInFlight() : 0,
      quiet,
      requests: this.#links.counters.requests,
    };
    if (!this.#lostReads.look(look)) return;
    const slots = this.#links.describe().map(({ index }) => index);
    this.#links.condemn(slots, `${look.inFlight} reads were in flight and no worker had them`);
  }

  #linkLost(cause: string, witness: Witness, causeClass = causeClassOf(witness)): void {
    const begun = this.#running?.level === "takeover" && !this.#running.isReported;
    this.#escalation = begun && this.#state !== "serving" ? cause : undefined;
    if (this.#state === "reconnecting") this.#running?.explain(cause, witness);
    this.#firstWord = { cause, witness, causeClass };
    this.#silentMs = 0;
    this.#dispatch("link-lost");
  }

  #workerLost(cause: string, silentMs: number, hung: boolean): void {
    this.#firstWord = { cause, witness: WITNESS.exit, causeClass: hung ? "worker-hang" : "worker-exit" };
    this.#silentMs = silentMs;
    this.#dispatch("worker-lost");
  }

  async #recheck(cause: string): Promise<void> {
    for (const wait of RECHECK_MS) {
      await sleep(wait);
      this.#links.check(cause);
    }
  }

  #checkLinks(): void {
    this.#links.check("a link was found dead");
    const { cause, witness, causeClass } = this.#firstWord;
    if (this.#links.deadSlots.length > 0) this.#linkLost(cause, witness, causeClass);
    else if (this.#links.orphanedSlots.length > 0) this.#workerLost(cause, 0, causeClass === "worker-hang");
  }

  #beginFailover(): void {
    this.#closeMeasurement();
    const index = this.#connectedIndex();
    const running = new RunningFailover(
      this.#firstWord,
      new StallMeter(index, (at) => this.#view.readsInFlight(at), this.#silentMs),
      { afterMs: this.settings.deadTimeoutSeconds * 1000, call: () => this.#dispatch("deadline-passed") },
    );
    this.#running = running;
    this.#work(index, running).catch((error: unknown) => {
      if (error instanceof DeviceEndedError) this.#ended(error.message);
      else if (!running.signal.aborted)
        this.emit("stalled", `a bug of ours ended the failover: ${String(error)}`);
    });
  }

  async #work(index: number, running: RunningFailover): Promise<void> {
    const context = {
      index,
      identifier: this.settings.identifier,
      links: this.#links,
      nbd: this.#nbd,
      view: this.#view,
      timing: this.#timing,
      settings: () => this.#kernelSettings(),
      linkRequest: (slot: number) => this.#linkRequest(slot),
      linkDeadCount: () => this.#linkDeadCount,
      step: () => this.#progress.step(),
      beforeHandover: () => this.#persistIfPossible(),
      tookOver: (unanswered: number) => running.found(unanswered),
      waiting: (why: string) => this.#announceStall(why),
      attemptFailed: (error: Error, attempt: number) => this.emit("attemptFailed", error.message, attempt),
    };
    await restoreLinks(context, running.signal, (why) => this.#announceStall(why.message));
    this.#dispatch("links-restored");
  }

  #announceStall(why: string): void {
    this.#stalledWhy = why;
    this.#dispatch("attempts-spent");
    this.emit("stalled", why);
  }

  /** In an outage reads wait: a record that cannot be written must not make them wait longer. */
  async #persistIfPossible(): Promise<void> {
    try {
      await this.#persist();
    } catch (error) {
      this.emit("recordFailed", error instanceof Error ? error.message : String(error));
    }
  }

  /** The links are back; the outcome follows when the reads that were on the wire have gone out again. */
  async #reportRecovered(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#linkDeadCount = 0;
    if (running.level === "takeover") {
      running.stop();
      this.#report(running, "recovered");
      return;
    }
    this.#booksCloseAt = performance.now() + this.settings.ioTimeoutMs + REQUEUE_GRACE_MS;
    const stallMs = await running.stoodStillMs(this.settings.ioTimeoutMs);
    this.#report(running, "recovered", stallMs);
  }

  /** A new death, or the end, cuts the measuring of the last failover short: its links were restored. */
  #closeMeasurement(): void {
    const running = this.#running;
    if (running === undefined || running.isReported) return;
    running.stop();
    this.#report(running, "recovered", running.elapsedMs);
  }

  #report(running: RunningFailover | undefined, result: FailoverOutcome["result"], stallMs?: number): void {
    const outcome = running?.finish(result, stallMs ?? running.elapsedMs);
    if (outcome === undefined) return;
    if (result === "recovered")
      this.#counters[outcome.level === "takeover" ? "takeovers" : "reconnects"] += 1;
    else this.#counters.failedFailovers += 1;
    this.#lastFailover = outcome;
    this.emit("failover", outcome);
  }

  async #disconnect(): Promise<void> {
    const index = this.#connectedIndex();
    try {
      // The index may be somebody else's by now; the kernel compares nothing on DISCONNECT, so we do.
      const { identifier } = this.settings;
      if (this.#view.backendOf(index) === identifier) {
        await this.#nbd.disconnect({ index, backendIdentifier: identifier });
        this.#progress.step();
      }
    } catch (error) {
      this.#dispatch("disconnect-refused");
      throw error;
    }
    this.#endReason = "detached";
    const end = performance.now() + GONE_DEADLINE_MS;
    while (this.#isConfigured(index) && performance.now() < end) await sleep(POLL_MS);
    this.#dispatch("disconnected");
  }

  #isConfigured(index: number): boolean {
    const view = this.#view;
    return view.backendOf(index) === this.settings.identifier && view.configuringThread(index) !== undefined;
  }

  #ended(why: string): void {
    if (this.#state !== "detaching") this.#endReason = why;
    this.#dispatch("device-ended");
  }

  #release(): void {
    this.#life.abort();
    clearInterval(this.#look);
    this.#closeMeasurement();
    this.#links.release();
    this.emit("released", this.#endReason);
  }
}
