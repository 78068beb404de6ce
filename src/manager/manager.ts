/**
 * The manager: every device of one run directory, their supervisors, their records, and the worker pool.
 *
 * Owns what lives as long as a device does: its image's descriptor, its supervisor, its record. Usable in any
 * process; daemon.ts adds the lock and the control socket. Starting and recovering are the same: `adopt` reads the
 * records, asks the kernel, and goes on with what is still there.
 */
import { randomUUID } from "node:crypto";
import { readdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import { faultOf } from "../control/fault.ts";
import type {
  AttachParams,
  DetachResult,
  DeviceEvent,
  DeviceStatus,
  SeenTarget,
  Target,
} from "../control/protocol.ts";
import { hasRecords, type RunDir } from "../control/run-dir.ts";
import type { ManagerVitals } from "../control/vitals.ts";
import { SUPERBLOCK_HEAD_BYTES } from "../erofs/superblock.ts";
import { ErofsNbdError } from "../errors.ts";
import { NbdControl } from "../kernel/nbd-control.ts";
import {
  backendOf,
  configuringThread,
  deviceNumber,
  devicePath,
  indexMountedAt,
  isExclusivelyHeld,
  type MountTable,
  mountPointsOf,
  readMounts,
} from "../kernel/sysfs.ts";
import type { Log } from "../log/log.ts";
import type { PooledFoundLink } from "../pool/found-link.ts";
import { reattachWorkers } from "../pool/reattach.ts";
import { inspectModule } from "../pool/source-inspector.ts";
import { type PoolOptions, type Renewal, WorkerPool } from "../pool/worker-pool.ts";
import { describeChange, type FileIdentity } from "../source/file-identity.ts";
import { type OpenImage, openHandedImage } from "../source/open-image.ts";
import { paddedSizeBytes } from "../source/padded-source.ts";
import { pathView } from "../source/path-view.ts";
import { type SourceSpec, sourceSizeBytes, sourceUri } from "../source/source-spec.ts";
import type { DeviceState } from "../supervisor/device-state.ts";
import { IoctlDevice } from "../supervisor/ioctl/ioctl-device.ts";
import type { DeviceSettings, ManagedDevice } from "../supervisor/managed-device.ts";
import { NetlinkDevice } from "../supervisor/netlink-device.ts";
import type { Image } from "../supervisor/ports.ts";
import { close, duplicate } from "../sys/libc.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../sys/process-identity.ts";
import { adoptDevices } from "./adoption/adoption.ts";
import { LeftoverDevice } from "./adoption/leftover-device.ts";
import { type Inspection, inspectHead, inspectImage } from "./image-inspection.ts";
import { type Figures, Observatory } from "./metrics/observatory.ts";
import { LateRecords } from "./records/deferred-record.ts";
import { type DeviceRecord, type NewRecord, RecordStore, settingsOf } from "./records/records.ts";

interface ManagerEvents {
  event: (event: DeviceEvent) => void;
  /** The last device has gone. */
  idle: () => void;
  /** A replacement of all workers has begun, or is over. */
  renewing: (isUnderWay: boolean) => void;
}

const STEP_DOWN_PATIENCE_MS = 10_000;
const STEP_DOWN_POLL_MS = 20;
const SETTLED_POLL_MS = 20;
const BORROWER_POLL_MS = 250;

/** Two: the links of a dead worker have somewhere to go at once. */
const POOL_SIZE = 2;
/** How often to look whether no attach waits, and the second worker can be started. */
const SECOND_WORKER_MS = 500;

export interface ManagerOptions {
  readonly runDir: RunDir;
  readonly log: Log;
  /** Where workers write what they cannot tell. */
  readonly workerStderr: number | "inherit" | "ignore";
  /** The program that a worker runs; for tests. */
  readonly workerPath?: string;
  /** An attach is about to come: one worker is started first, and the second when it has been answered. */
  readonly isForAttach?: boolean;
}

/** Something to attach: the descriptor closes with the device. */
interface OpenedSource {
  readonly fd: number;
  readonly spec: SourceSpec;
  readonly inspect: () => Inspection;
}

export class Manager extends EventEmitter<ManagerEvents> {
  readonly #log: Log;
  readonly #records: RecordStore;
  readonly #pool: WorkerPool;
  readonly #workers: PoolOptions;
  readonly #kernel: NbdControl;
  readonly #runDir: RunDir;
  readonly #devices = new Map<string, ManagedDevice>();
  readonly #observatory: Observatory;
  /** Devices on their way out: resolved when descriptor and record are gone. */
  readonly #leaving = new Map<string, Promise<void>>();
  /** Who is about to mount a device, by its identifier, until that is done. */
  readonly #loans = new Map<string, ProcessIdentity>();
  /** What is not done yet is the next manager's to do. */
  #isLeaving = false;
  readonly #lateRecords = new LateRecords({
    isBusy: () =>
      [...this.#devices.values()].some(({ state }) => state === "taking-over" || state === "reconnecting"),
    write: (device) => this.#persist(device).catch((error: unknown) => this.#log.error(String(error))),
  });
  /** Attaches that have begun and are not answered. */
  #attaching = 0;
  readonly #isForAttach: boolean;
  /** What a start has found and done, for the next `status`. */
  #notes: string[] = [];

  constructor(options: ManagerOptions) {
    super();
    this.#log = options.log;
    this.#runDir = options.runDir;
    this.#isForAttach = options.isForAttach === true;
    this.#records = new RecordStore(options.runDir.devices);
    this.#workers = {
      size: POOL_SIZE,
      stderr: options.workerStderr,
      directory: options.runDir.workers,
      journals: options.runDir.journals,
      ...(options.workerPath === undefined ? {} : { workerPath: options.workerPath }),
    };
    this.#pool = new WorkerPool(this.#workers, {
      log: (level, message, fields) => this.#log[level](message, fields),
    });
    this.#observatory = new Observatory({
      devices: () => this.#devices.values(),
      census: (nowMs) => this.#pool.census(nowMs),
    });
    this.#kernel = new NbdControl(options.log, {
      linkDead: (index) =>
        this.#supervisors()
          .find((device) => device.index === index)
          ?.linkDead(),
      resynchronise: () => {
        for (const device of this.#supervisors()) device.resynchronise();
      },
    });
  }

  get deviceCount(): number {
    return this.#devices.size;
  }

  /** Every device with its state, without a look at the system. */
  get overview(): Array<{ readonly name: string; readonly state: DeviceState; readonly silentMs: number }> {
    return [...this.#devices.values()].map(({ index, state, silentMs }) => ({
      name: index === undefined ? "a device in the making" : `nbd${index}`,
      state,
      silentMs,
    }));
  }

  /** For how long nobody has looked after the workers. */
  get unwatchedMs(): number {
    return this.#pool.unwatchedMs;
  }

  /** Whether a worker is on its way, which devices may wait for; see WorkerSet. */
  get isStartingWorker(): boolean {
    return this.#pool.isStarting;
  }

  get workerPids(): readonly number[] {
    return this.#pool.pids;
  }

  /** Lines that a start left for the user; asking takes them. */
  takeNotes(): string[] {
    return this.#notes.splice(0);
  }

  /** Meets the workers of a former manager, starts what is missing, and goes on with the devices that it left. */
  async start(): Promise<void> {
    const { met, silent } = await reattachWorkers(this.#runDir.workers, this.#runDir.journals);
    const links = met.flatMap((acquaintance) => this.#pool.adopt(acquaintance));
    this.#startWorkers();
    clearJournals(this.#runDir.journals, links);
    this.#notes = await adoptDevices(this.#records, {
      log: this.#log,
      nbd: this.#kernel,
      links,
      metPids: met.map(({ pid }) => pid),
      silent,
      adopt: (record, image, index, found) => this.#goOn(record, image, index, found),
      keep: (device) => this.#own(device),
    });
  }

  /** Goes on with a device that a former manager left, with its workers' links or with none. Takes the image over. */
  async #goOn(
    record: DeviceRecord,
    image: Image,
    index: number,
    found: readonly PooledFoundLink[],
  ): Promise<void> {
    const device: NetlinkDevice = new NetlinkDevice(settingsOf(record), image, this.#kernel, this.#pool, () =>
      this.#persist(device),
    );
    this.#own(device);
    if (record.lentTo !== null) void this.#awaitBorrower(device, record.lentTo);
    try {
      await device.adopt(index, found, "a dead manager left it behind", record.history);
    } catch (error) {
      this.#forget(device);
      throw error;
    }
    await this.#persist(device).catch((error: unknown) => this.#log.error(String(error)));
  }

  /** Devices that wait for just this image go on with it, each with a descriptor of its own. Returns their indices. */
  async #giveBack({ fd, spec }: OpenImage): Promise<number[]> {
    const waiting = [...this.#devices.values()].filter(
      (device) =>
        device instanceof LeftoverDevice &&
        device.isAwaitingImage &&
        device.image.spec.type === "file" &&
        describeChange(device.image.spec.identity, spec.identity) === undefined,
    ) as LeftoverDevice[];
    for (const device of waiting) {
      const own = openHandedImage(duplicate(fd), spec.path);
      const record = device.leave();
      this.#forget(device);
      this.#log.warn(`nbd${device.index} waited for ${sourceUri(spec)} and goes on with it`);
      const image = { ...own, blockSizeBytes: record.blockSizeBytes };
      await this.#goOn(record, image, device.index, []);
    }
    return waiting.map(({ index }) => index);
  }

  /**
   * Waits until a failover of the device is over, one way or the other. @throws ErofsNbdError ERR_NOT_ATTACHED when
   * the device ends
   */
  async #settled(index: number): Promise<ManagedDevice> {
    while (["taking-over", "reconnecting"].includes(this.#byIndex(index).state)) await sleep(SETTLED_POLL_MS);
    return this.#byIndex(index);
  }

  /** All at once where devices wait for them, or nobody does. */
  #startWorkers(): void {
    if (!this.#isForAttach || hasRecords(this.#runDir)) return this.#pool.fill();
    this.#pool.begin();
    const rest = setInterval(() => {
      if (this.#attaching > 0) return;
      clearInterval(rest);
      this.#pool.fill();
    }, SECOND_WORKER_MS).unref();
  }

  /**
   * Attaches an image and returns the device when it can be read. A device that has lost this image and waits for
   * it is what was asked for, unless a mount or another index is wanted. `imageFd` is the image's descriptor, which
   * is taken over. Where it is to be mounted, `borrowerPid` is who will say that it is.
   * @throws ErofsNbdError, NetlinkError
   */
  async attach(
    params: AttachParams,
    imageFd: number | undefined,
    borrowerPid?: number,
  ): Promise<{ device: ManagedDevice; notes: readonly string[] }> {
    this.#attaching += 1;
    try {
      return await this.#attach(params, imageFd, borrowerPid);
    } finally {
      this.#attaching -= 1;
    }
  }

  async #attach(
    params: AttachParams,
    imageFd: number | undefined,
    borrowerPid: number | undefined,
  ): Promise<{ device: ManagedDevice; notes: readonly string[] }> {
    const opened = await this.#openSource(params, imageFd);
    let device: ManagedDevice | undefined;
    try {
      const revived =
        opened.spec.type === "file" ? await this.#giveBack({ ...opened, spec: opened.spec }) : [];
      const wanted = revived.find((index) => !params.forMount && index === (params.index ?? index));
      if (wanted !== undefined) {
        const found = await this.#settled(wanted);
        close(opened.fd);
        return { device: found, notes: [`nbd${wanted} was waiting for this image, and goes on with it`] };
      }
      const { blockSizeBytes, notes } = opened.inspect();
      if (params.index !== null) this.#refuseBusy(params.index, opened);
      const settings = toSettings(params, opened.spec, blockSizeBytes);
      const how = await this.#chooseInterface(params);
      const name = opened.spec.type === "file" ? sourceUri(opened.spec) : opened.spec.path;
      this.#log.debug?.(`Attaching ${name}`, { interface: how.interface, ...settings });
      const borrower =
        params.forMount && borrowerPid !== undefined ? identifyProcess(borrowerPid) : undefined;
      if (borrower !== undefined) this.#loans.set(settings.identifier, borrower);
      device = this.#create(how.interface, settings, { spec: opened.spec, fd: opened.fd, blockSizeBytes });
      const index = await device.attach(params.index ?? undefined);
      this.#log.info(`Attached ${name} to nbd${index}`, {
        index,
        identifier: settings.identifier,
      });
      this.#tell(device, { event: "attached", image: name });
      return { device, notes: [...notes, ...how.notes] };
    } catch (error) {
      // A device that was made owns the descriptor and has closed it with its release.
      if (device === undefined) close(opened.fd);
      else await this.#leaving.get(device.settings.identifier);
      throw error;
    }
  }

  /**
   * What is to be attached, open; `inspect` says what it is. @throws ErofsNbdError ERR_IMAGE, ERR_SOURCE,
   * ERR_BAD_ARGUMENT
   */
  async #openSource(params: AttachParams, imageFd: number | undefined): Promise<OpenedSource> {
    const { image: name, blockSizeBytes, forMount, module } = params;
    if (module === undefined) {
      // Never by the path: it may lead to another file from here.
      if (imageFd === undefined) {
        throw new ErofsNbdError(
          "ERR_BAD_ARGUMENT",
          `cannot attach ${name}: the command has not handed the image over, so it is of an older version`,
          { hint: "upgrade the package that the command belongs to" },
        );
      }
      const image = openHandedImage(imageFd, name);
      return { ...image, inspect: () => inspectImage(image, blockSizeBytes, forMount) };
    }
    if (imageFd !== undefined) close(imageFd);
    refuseOtherView(name, module.view);
    const { fd, spec, head } = await inspectModule(
      name,
      module.options,
      SUPERBLOCK_HEAD_BYTES,
      this.#workers,
    );
    return { fd, spec, inspect: () => inspectHead(head, spec, blockSizeBytes, forMount) };
  }

  /** Sets autoclear on a device that has been mounted. @throws ErofsNbdError ERR_NOT_ATTACHED */
  async mounted(index: number): Promise<void> {
    const device = this.#byIndex(index);
    await device.enableAutoclear();
    this.#loans.delete(device.settings.identifier);
    this.#lateRecords.note(device);
  }

  /** A mount was begun on a device, and whoever was at it has gone: keep the device if the mount is there. */
  async settleLoan(identifier: string): Promise<void> {
    const device = this.#devices.get(identifier);
    // One that makes way leaves this to the next: the record says to whom it was lent.
    if (device?.index === undefined || this.#isLeaving) return;
    this.#loans.delete(identifier);
    const mounted = (await mountPointsOf(device.index)).length > 0 || (await isExclusivelyHeld(device.index));
    this.#log.warn(
      `The mount of nbd${device.index} was not finished: ${mounted ? "it is there, kept" : "detaching"}`,
    );
    await (mounted ? device.enableAutoclear() : device.detach());
  }

  /** A mount was begun under another manager: whoever is at it may still say that it is done, or end without. */
  async #awaitBorrower(device: ManagedDevice, borrower: ProcessIdentity): Promise<void> {
    const { identifier } = device.settings;
    this.#loans.set(identifier, borrower);
    const isLent = (): boolean => this.#loans.get(identifier) === borrower && !this.#isLeaving;
    // Whether it is mounted may have to be asked of the device itself.
    while (isLent() && (isAlive(borrower) || device.state !== "serving"))
      await sleep(BORROWER_POLL_MS, undefined, { ref: false });
    if (isLent())
      await this.settleLoan(identifier).catch((error: unknown) => this.#log.error(faultOf(error).message));
  }

  /** Detaches what the targets name; each has its own result. */
  async detach(targets: readonly Target[], all: boolean, force: boolean): Promise<DetachResult[]> {
    const named = all
      ? [...this.#devices.values()].map((device) => ({ target: null, device }))
      : await this.#resolveAll(targets);
    const results: DetachResult[] = [];
    for (const { target, device } of named) {
      const path = device?.index === undefined ? null : devicePath(device.index);
      try {
        if (device === undefined) throw this.#notAttached(target);
        await this.#detachOne(device, force);
        results.push({ target: nameOf(target), device: path, error: null });
      } catch (error) {
        results.push({ target: nameOf(target), device: path, error: faultOf(error) });
      }
    }
    return results;
  }

  /** Shuts a device's live links down, as if their sockets had died. @throws ErofsNbdError ERR_NOT_ATTACHED, ERR_BAD_ARGUMENT */
  cutLinks(index: number): void {
    const device = this.#byIndex(index);
    if (!(device instanceof NetlinkDevice)) {
      const why = device.interface === "ioctl" ? "it is attached by ioctl" : "this manager did not make them";
      throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot cut the links of nbd${index}: ${why}`, {
        hint: "detach it, and attach it again through netlink",
      });
    }
    device.cutLinks();
  }

  /** All devices, or those that a target names. @throws ErofsNbdError ERR_NOT_ATTACHED */
  async status(target: Target | null): Promise<DeviceStatus[]> {
    const devices = target === null ? [...this.#devices.values()] : await this.#resolve(target);
    if (target !== null && devices.length === 0) throw this.#notAttached(target);
    const mounts = await readMounts();
    return Promise.all(devices.map((device) => this.describe(device, mounts)));
  }

  /** How the manager and its workers are. */
  vitals(): ManagerVitals {
    return this.#observatory.vitals();
  }

  /** Everything that can be counted, for a scrape. */
  figures(): Figures {
    return this.#observatory.figures();
  }

  /** `mounts` saves reading them once more. */
  async describe(device: ManagedDevice, mounts?: MountTable): Promise<DeviceStatus> {
    const { index, image, settings } = device;
    return {
      device: index === undefined ? null : devicePath(index),
      index: index ?? null,
      state: device.state,
      interface: device.interface,
      identifier: settings.identifier,
      source: {
        type: image.spec.type,
        uri: sourceUri(image.spec),
        sizeBytes: sourceSizeBytes(image.spec),
      },
      sizeBytes: settings.sizeBytes,
      blockSizeBytes: image.blockSizeBytes,
      readOnly: true,
      mountPoints: index === undefined ? [] : await mountPointsOf(index, mounts),
      managerPid: process.pid,
      links: device.describeLinks(),
      counters: device.counters,
      lastFailover: device.lastFailover,
      stalledReason: device.stalledReason,
      ...device.exactness,
      recent: this.#observatory.recent(device),
    };
  }

  /** Replaces every worker by one of the installed program. @throws ErofsNbdError ERR_WORKER: the old ones serve on */
  async renewWorkers(): Promise<Renewal> {
    this.emit("renewing", true);
    try {
      return await this.#pool.renew();
    } finally {
      this.emit("renewing", false);
    }
  }

  /**
   * Makes way for another manager: waits until no device is between two states, and then changes nothing any more.
   * @throws ErofsNbdError ERR_CONTROL when that does not come
   */
  async stepDown(): Promise<void> {
    const end = performance.now() + STEP_DOWN_PATIENCE_MS;
    const settled = (): boolean =>
      [...this.#devices.values()].every(({ state }) => ["serving", "failed", "stalled"].includes(state));
    while (!settled() || this.#leaving.size > 0) {
      if (performance.now() > end) {
        throw new ErofsNbdError(
          "ERR_CONTROL",
          "cannot replace the manager: a device is in the middle of a change",
          {
            hint: "erofs-nbd status shows which; try again when it is over",
          },
        );
      }
      await sleep(STEP_DOWN_POLL_MS);
    }
    this.#isLeaving = true;
    this.#pool.leave();
    await this.#lateRecords.write();
    await this.#records.settled();
    await this.#kernel.close();
  }

  /** Ends at once, as if it had been killed, but in order: for a start that did not come to its end. */
  async abandon(): Promise<void> {
    this.#isLeaving = true;
    this.#observatory.close();
    this.#pool.leave();
    await this.#kernel.close();
  }

  /** Lets go of workers and netlink. Devices stay as they are: their workers serve on without a manager. */
  async stop(): Promise<void> {
    this.#isLeaving = true;
    this.#observatory.close();
    this.#pool.stop();
    await this.#lateRecords.write();
    await this.#records.settled();
    await this.#kernel.close();
  }

  #supervisors(): NetlinkDevice[] {
    return [...this.#devices.values()].filter((device) => device instanceof NetlinkDevice);
  }

  #create(how: "netlink" | "ioctl", settings: DeviceSettings, image: Image): ManagedDevice {
    const persist = (): Promise<void> => this.#persist(device);
    const device: ManagedDevice =
      how === "netlink"
        ? new NetlinkDevice(settings, image, this.#kernel, this.#pool, persist)
        : new IoctlDevice(settings, image, this.#pool, persist);
    this.#own(device);
    return device;
  }

  /** From here on the device is ours: its events are told, and its end lets go of everything. */
  #own(device: ManagedDevice): void {
    this.#devices.set(device.settings.identifier, device);
    this.#observatory.own(device);
    const name = (): string => (device.index === undefined ? "a device in the making" : `nbd${device.index}`);
    device.on("state", (state, before) => {
      if (state === "serving") this.#lateRecords.look();
      this.#log.info(`${name()} is ${state}`, { state, before });
      this.#tell(device, { event: "state", state, before });
    });
    device.on("failover", ({ at: _, ...outcome }) => {
      this.#log[outcome.result === "recovered" ? "warn" : "error"](
        `${name()}: ${outcome.result} after ${outcome.cause}`,
        { ...outcome },
      );
      this.#tell(device, { event: "failover", ...outcome });
      this.#lateRecords.note(device);
    });
    device.on("stalled", (message) => {
      this.#log.error(`${name()}: nobody serves it: ${message}`);
      this.#tell(device, { event: "stalled", message });
    });
    device.on("attemptFailed", (message, attempt) => {
      this.#log.warn(`${name()}: attempt ${attempt} failed: ${message}`);
      this.#tell(device, { event: "attempt-failed", message });
    });
    device.on("timerFailed", (why) =>
      this.#log.error(`${name()}: its request timer could not be set: ${why}`),
    );
    device.on("recordFailed", (why) => this.#log.error(`${name()}: its record could not be written: ${why}`));
    device.on("moved", (workerPid, stallMs) => {
      this.#log.info(`${name()}: worker ${workerPid} serves it now`, { workerPid, stallMs });
      this.#tell(device, { event: "moved", workerPid, stallMs });
      this.#lateRecords.note(device);
    });
    device.on("imageChanged", (change) => {
      const { path } = device.image.spec;
      if (change === undefined) this.#log.info(`${name()}: ${path} is what was attached again`);
      else this.#log.error(`${name()}: reads fail, because ${path} has changed: ${change}`);
    });
    device.on("repinned", () => this.#lateRecords.note(device));
    device.on("revived", () => this.#tell(device, { event: "revived" }));
    device.on("readErrors", (message, count) => {
      this.#log.error(`${name()}: ${count} read(s) answered with an error: ${message}`, { count });
      this.#tell(device, { event: "read-errors", message, count });
    });
    device.once("released", (why) => {
      const { identifier } = device.settings;
      const left = this.#disown(device, why).finally(() => this.#leaving.delete(identifier));
      this.#leaving.set(identifier, left);
    });
  }

  #forget(device: ManagedDevice): void {
    this.#devices.delete(device.settings.identifier);
    this.#loans.delete(device.settings.identifier);
    this.#observatory.disown(device);
    close(device.image.fd);
  }

  async #disown(device: ManagedDevice, why: string): Promise<void> {
    this.#forget(device);
    await this.#records
      .remove(device.settings.identifier)
      .catch((error: unknown) => this.#log.error(String(error)));
    this.#log.info(`${device.index === undefined ? "A device" : `nbd${device.index}`} ended: ${why}`);
    this.#tell(device, { event: "detached", message: why });
    if (this.#devices.size === 0) this.emit("idle");
  }

  async #persist(device: ManagedDevice): Promise<void> {
    const { settings, image } = device;
    if (device.state === "detached") return;
    const record: NewRecord = {
      ...settings,
      interface: device.interface,
      index: device.index ?? null,
      image: image.spec,
      blockSizeBytes: image.blockSizeBytes,
      workers: this.#pool.pids.map(identifyProcess).filter((found) => found !== undefined),
      lentTo: this.#loans.get(settings.identifier) ?? null,
      history: device.history,
      client: (device.clientPid === undefined ? undefined : identifyProcess(device.clientPid)) ?? null,
    };
    await this.#records.write(record);
  }

  async #chooseInterface(params: AttachParams): Promise<{ interface: "netlink" | "ioctl"; notes: string[] }> {
    if (params.interface === "ioctl") return { interface: "ioctl", notes: [] };
    try {
      await this.#kernel.open();
      return { interface: "netlink", notes: [] };
    } catch (error) {
      const mayFallBack = params.interface === "any" && !params.forMount;
      if (!mayFallBack || !(error instanceof ErofsNbdError) || error.code !== "ERR_NO_NETLINK") throw error;
      return {
        interface: "ioctl",
        notes: [`${error.message}; attached by ioctl, where nothing survives a dead worker`],
      };
    }
  }

  #refuseBusy(index: number, image: Pick<OpenedSource, "spec">): void {
    const { spec } = image;
    const isItself = spec.type === "file" && spec.identity.kind === "block-device";
    if (isItself && spec.identity.device === deviceNumber(index)) {
      throw new ErofsNbdError(
        "ERR_IMAGE",
        `cannot attach ${image.spec.path} to nbd${index}: the image is the device itself`,
      );
    }
    if (configuringThread(index) === undefined) return;
    const ours = [...this.#devices.values()].find((device) => device.index === index);
    const backend = backendOf(index);
    const by =
      ours === undefined
        ? backend
          ? `by somebody else, with identifier ${backend}`
          : "by somebody else"
        : `with ${sourceUri(ours.image.spec)}`;
    throw new ErofsNbdError("ERR_DEVICE_BUSY", `cannot attach to nbd${index}: it is in use ${by}`, {
      hint: "leave --device away and the kernel picks a free one",
    });
  }

  async #detachOne(device: ManagedDevice, force: boolean): Promise<void> {
    const { index } = device;
    if (index !== undefined && !force) {
      const mountPoints = await mountPointsOf(index);
      if (mountPoints.length > 0) {
        throw new ErofsNbdError(
          "ERR_DEVICE_MOUNTED",
          `cannot detach nbd${index}: it is mounted at ${mountPoints.join(", ")}`,
          {
            hint: "umount it first; --force detaches all the same, and what is mounted there gets I/O errors",
          },
        );
      }
      if (device.state === "serving" && (await isExclusivelyHeld(index))) {
        throw new ErofsNbdError(
          "ERR_DEVICE_MOUNTED",
          `cannot detach nbd${index}: another mount namespace or device uses it`,
          {
            hint: "look into /proc/*/mountinfo for it; --force detaches all the same",
          },
        );
      }
    }
    await device.detach();
    await this.#leaving.get(device.settings.identifier);
  }

  #byIndex(index: number): ManagedDevice {
    const device = [...this.#devices.values()].find((one) => one.index === index);
    if (device === undefined) throw this.#notAttached({ index });
    return device;
  }

  async #resolveAll(
    targets: readonly Target[],
  ): Promise<Array<{ target: Target; device: ManagedDevice | undefined }>> {
    const named: Array<{ target: Target; device: ManagedDevice | undefined }> = [];
    for (const target of targets) {
      const devices = await this.#resolve(target);
      if (devices.length === 0) named.push({ target, device: undefined });
      for (const device of devices) named.push({ target, device });
    }
    return named;
  }

  async #resolve(target: Target): Promise<ManagedDevice[]> {
    const all = [...this.#devices.values()];
    if ("index" in target) return all.filter((device) => device.index === target.index);
    // Former versions do not say what they see.
    const { path, seen = { view: pathView() ?? null, file: null } } = target;
    // From elsewhere a path means nothing here, whatever lies at it.
    const isHere = seen.view !== null && seen.view === pathView();
    const mounted = isHere ? await indexMountedAt(path) : undefined;
    if (mounted !== undefined) return all.filter((device) => device.index === mounted);
    const same = all.filter(
      ({ image: { spec } }) => spec.type === "file" && isSeen(spec.identity, seen.file),
    );
    if (same.length > 0 || !isHere) return same;
    // The image may have been removed, or replaced, while it is attached.
    return all.filter(
      ({ image: { spec } }) => spec.path === path && !(spec.type === "file" && spec.isHandedIn),
    );
  }

  #notAttached(target: Target | null): ErofsNbdError {
    if (target === null || "path" in target) {
      return new ErofsNbdError(
        "ERR_NOT_ATTACHED",
        `cannot find ${target?.path ?? "a device"}: it is neither an attached image nor a mount of one`,
      );
    }
    const foreign = configuringThread(target.index) !== undefined;
    return new ErofsNbdError(
      "ERR_NOT_ATTACHED",
      `cannot find nbd${target.index}: ${foreign ? "somebody else attached it" : "it is not attached"}`,
      {
        hint: foreign
          ? "detach it with the program that attached it (nbd-client -d, qemu-nbd -d, …)"
          : undefined,
      },
    );
  }

  #tell(
    device: ManagedDevice,
    event: DeviceEvent extends infer E ? (E extends DeviceEvent ? Omit<E, "at" | "device"> : never) : never,
  ): void {
    const path = device.index === undefined ? null : devicePath(device.index);
    this.emit("event", { at: new Date().toISOString(), device: path, ...event } as DeviceEvent);
  }
}

/** A target as answers repeat it. */
function nameOf(target: Target | null): Target | null {
  return target !== null && "path" in target ? { path: target.path } : target;
}

/** Whether a caller sees just this file or disk. A disk has any number of nodes. */
function isSeen({ kind, device, inode }: FileIdentity, file: SeenTarget["file"]): boolean {
  return file?.device === device && (kind === "block-device" || file.inode === inode);
}

/** Workers load a module by its path: it has to lead to the same file for them. @throws ErofsNbdError ERR_SOURCE */
function refuseOtherView(path: string, view: string | undefined): void {
  if (view !== undefined && view === pathView()) return;
  throw new ErofsNbdError(
    "ERR_SOURCE",
    `cannot use source module ${path}: ${
      view === undefined
        ? "the program does not say in which mount namespace (it has no /proc, or an older version of this package)"
        : "the manager is in another mount namespace, or under another root, where the path may lead elsewhere"
    }`,
    { hint: `attach it from where the manager is: nsenter -t ${process.pid} -m -r` },
  );
}

/** Journals of links that are no more: their manager died before it could remove them. */
function clearJournals(directory: string, links: readonly PooledFoundLink[]): void {
  const used = new Set(links.map(({ journalPath }) => basename(journalPath)));
  for (const name of readdirSync(directory)) {
    if (!used.has(name)) rmSync(join(directory, name), { force: true, recursive: true });
  }
}

function toSettings(params: AttachParams, spec: SourceSpec, blockSizeBytes: number): DeviceSettings {
  return {
    identifier: randomUUID(),
    sizeBytes: paddedSizeBytes(sourceSizeBytes(spec), blockSizeBytes),
    connections: params.interface === "ioctl" ? 1 : params.connections,
    timeoutSeconds: params.timeoutSeconds,
    deadTimeoutSeconds: params.deadTimeoutSeconds,
    ioTimeoutMs: params.ioTimeoutMs,
    hangTimeoutMs: params.hangTimeoutMs,
    autoclear: false,
  };
}
