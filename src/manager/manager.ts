/**
 * The manager: the devices of one run directory, the workers that serve them, and the records of both.
 *
 * Wires its parts (attach.ts, loans.ts, devices.ts, adoption/, metrics/, records/) and is what the control socket,
 * the service and the metrics see. Usable in any process; daemon.ts adds the lock of the run directory and the
 * control socket. A start after a crash is a start like any other: it reads the records, asks the kernel, and goes on
 * with the devices that are still there.
 */
import { EventEmitter } from "eventemitter3";
import type { AttachParams, DetachResult, DeviceEvent, DeviceStatus, Target } from "../control/protocol.ts";
import { hasRecords, type RunDir } from "../control/run-dir.ts";
import type { ManagerVitals } from "../control/vitals.ts";
import { ErofsNbdError } from "../errors.ts";
import { NbdControl } from "../kernel/nbd-control.ts";
import { readMounts } from "../kernel/sysfs.ts";
import type { Log } from "../log/log.ts";
import { type PoolOptions, type Renewal, WorkerPool } from "../pool/worker-pool.ts";
import type { DeviceState } from "../supervisor/device-state.ts";
import type { ManagedDevice } from "../supervisor/managed-device.ts";
import { NetlinkDevice } from "../supervisor/netlink-device.ts";
import { type ContinuationContext, returnImage } from "./adoption/continue-device.ts";
import { adoptAtStart } from "./adoption/start-adoption.ts";
import { type Attached, Attacher } from "./attach.ts";
import { DeviceFactory } from "./create-device.ts";
import { detachAll, detachTargets } from "./detach.ts";
import { nameOf } from "./device-events.ts";
import { Devices } from "./devices.ts";
import { deviceAt, findDevices, notFound } from "./find-device.ts";
import { Leaving } from "./leave.ts";
import { type Borrower, keepIfMounted, Loans } from "./loans.ts";
import { describeDevice } from "./metrics/device-status.ts";
import { type Figures, Observatory } from "./metrics/observatory.ts";
import { DeferredRecords } from "./records/deferred-records.ts";
import { RecordStore } from "./records/record-store.ts";

interface ManagerEvents {
  event: (event: DeviceEvent) => void;
  /** The last device has gone. */
  idle: () => void;
  /** A replacement of all workers has begun (true) or ended. */
  renewing: (isUnderWay: boolean) => void;
}

/** Two, so that the links of a worker that dies can go to another at once. */
const POOL_SIZE = 2;
/** How often to look whether no attach is under way, so that the second worker can be started. */
const SECOND_WORKER_MS = 500;

export interface ManagerOptions {
  readonly runDir: RunDir;
  readonly log: Log;
  /** Where the stderr of workers goes. */
  readonly workerStderr: number | "inherit" | "ignore";
  /** The program that a worker runs; for tests. */
  readonly workerPath?: string;
  /** An attach is about to come: one worker is started first, the second when the attach has been answered. */
  readonly isForAttach?: boolean;
}

/** A device for the service manager: its name, its state, and for how long nothing was done about a change. */
export interface DeviceOverview {
  readonly name: string;
  readonly state: DeviceState;
  readonly silentMs: number;
}

export class Manager extends EventEmitter<ManagerEvents> {
  readonly #runDir: RunDir;
  readonly #isForAttach: boolean;
  readonly #workers: PoolOptions;
  readonly #pool: WorkerPool;
  readonly #kernel: NbdControl;
  readonly #records: RecordStore;
  readonly #deferred: DeferredRecords;
  readonly #observatory: Observatory;
  readonly #loans: Loans;
  readonly #devices: Devices;
  readonly #factory: DeviceFactory;
  readonly #attacher: Attacher;
  readonly #continuation: ContinuationContext;
  readonly #leaving: Leaving;
  /** What the start found and did, for the next `status`. */
  #notes: string[] = [];

  constructor(options: ManagerOptions) {
    super();
    const { log, runDir } = options;
    const tell = (event: DeviceEvent): void => void this.emit("event", event);
    this.#runDir = runDir;
    this.#isForAttach = options.isForAttach === true;
    this.#workers = {
      size: POOL_SIZE,
      stderr: options.workerStderr,
      directory: runDir.workers,
      journals: runDir.journals,
      ...(options.workerPath === undefined ? {} : { workerPath: options.workerPath }),
    };
    this.#pool = new WorkerPool(this.#workers, {
      log: (level, message, fields) => log[level](message, fields),
    });
    this.#kernel = new NbdControl(log, {
      linkDead: (index) => this.#devices.netlink.find((device) => device.index === index)?.linkDead(),
      resynchronise: () => {
        for (const device of this.#devices.netlink) device.resynchronise();
      },
    });
    this.#records = new RecordStore(runDir.devices);
    this.#deferred = new DeferredRecords({
      isBusy: () =>
        this.#devices.all.some(({ state }) => state === "taking-over" || state === "reconnecting"),
      write: (device) => this.#factory.persist(device).catch((error: unknown) => log.error(String(error))),
    });
    this.#observatory = new Observatory({
      devices: () => this.#devices.all,
      census: (nowMs) => this.#pool.census(nowMs),
    });
    this.#loans = new Loans({
      log,
      isLeaving: () => this.#leaving.hasBegun,
      settle: async (identifier) => {
        const device = this.#devices.get(identifier);
        if (device !== undefined) await keepIfMounted(device, log);
      },
    });
    const books = { records: this.#records, deferred: this.#deferred, observatory: this.#observatory };
    this.#devices = new Devices({ log, ...books, loans: this.#loans, tell, idle: () => this.emit("idle") });
    const parts = { log, devices: this.#devices, loans: this.#loans, kernel: this.#kernel, pool: this.#pool };
    this.#factory = new DeviceFactory({ ...parts, records: this.#records });
    this.#continuation = { ...parts, factory: this.#factory };
    this.#attacher = new Attacher({
      ...parts,
      factory: this.#factory,
      workers: this.#workers,
      returnImage: (image) => returnImage(this.#continuation, image),
      tell,
    });
    this.#leaving = new Leaving({ ...parts, ...books });
  }

  get deviceCount(): number {
    return this.#devices.count;
  }

  /** All devices, from memory alone: nothing is read from the system. */
  get overview(): DeviceOverview[] {
    return this.#devices.all.map((device) => {
      const { state, silentMs } = device;
      return { name: nameOf(device), state, silentMs };
    });
  }

  /** How long ago the pool last checked its workers. */
  get unwatchedMs(): number {
    return this.#pool.unwatchedMs;
  }

  /** Whether a worker is being started, which devices may wait for; see WorkerSet. */
  get isStartingWorker(): boolean {
    return this.#pool.isStarting;
  }

  get workerPids(): readonly number[] {
    return this.#pool.pids;
  }

  /** Lines that the start left for the user. They are returned once. */
  takeNotes(): string[] {
    return this.#notes.splice(0);
  }

  /** Reattaches the workers of a former manager, starts missing ones, and goes on with the devices that it left. */
  async start(): Promise<void> {
    this.#notes = await adoptAtStart({
      ...this.#continuation,
      runDir: this.#runDir,
      kernel: this.#kernel,
      pool: this.#pool,
      records: this.#records,
      leaving: this.#leaving,
      stderr: this.#workers.stderr,
      startWorkers: () => this.#startWorkers(),
    });
  }

  /** Starts both workers at once, unless an attach is about to come: it would have to share the processors. */
  #startWorkers(): void {
    if (!this.#isForAttach || hasRecords(this.#runDir)) return this.#pool.fill();
    this.#pool.begin();
    const second = setInterval(() => {
      if (this.#attacher.isUnderWay) return;
      clearInterval(second);
      this.#pool.fill();
    }, SECOND_WORKER_MS).unref();
  }

  /**
   * Attaches an image and returns the device when it can be read. Takes `imageFd`, a descriptor of the image, over.
   * A device for a mount is lent to `borrower`. @throws ErofsNbdError, NetlinkError
   */
  attach(params: AttachParams, imageFd: number | undefined, borrower?: Borrower): Promise<Attached> {
    return this.#attacher.attach(params, imageFd, borrower);
  }

  /** A device has been mounted: it ends with its last close from now on. @throws ErofsNbdError ERR_NOT_ATTACHED */
  async mounted(index: number): Promise<void> {
    const device = deviceAt(this.#devices.all, index);
    await device.enableAutoclear();
    this.#loans.end(device.settings.identifier);
    this.#deferred.note(device);
  }

  /** A connection has closed: devices lent to it are kept if they are mounted, and detached if not. */
  borrowerGone(borrower: Borrower): Promise<void> {
    return this.#loans.closed(borrower);
  }

  /** Detaches what the targets name, or all devices. Each has a result of its own. */
  detach(targets: readonly Target[], all: boolean, force: boolean): Promise<DetachResult[]> {
    return all ? detachAll(this.#devices, force) : detachTargets(this.#devices, targets, force);
  }

  /** Shuts a device's links down, as if they had died. @throws ErofsNbdError ERR_NOT_ATTACHED, ERR_BAD_ARGUMENT */
  cutLinks(index: number): void {
    const device = deviceAt(this.#devices.all, index);
    if (device instanceof NetlinkDevice) return device.cutLinks();
    const why = device.interface === "ioctl" ? "it is attached by ioctl" : "a former manager left it behind";
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot cut the links of nbd${index}: ${why}`, {
      hint: "detach it, and attach it again through netlink",
    });
  }

  /** All devices, or those that a target names. @throws ErofsNbdError ERR_NOT_ATTACHED */
  async status(target: Target | null): Promise<DeviceStatus[]> {
    const { all } = this.#devices;
    const devices = target === null ? all : await findDevices(all, target);
    if (target !== null && devices.length === 0) throw notFound(target);
    const mounts = await readMounts();
    return Promise.all(
      devices.map((device) => describeDevice(device, this.#devices, this.#observatory, mounts)),
    );
  }

  describe(device: ManagedDevice): Promise<DeviceStatus> {
    return describeDevice(device, this.#devices, this.#observatory);
  }

  /** The state of the manager and its workers. */
  vitals(): ManagerVitals {
    return this.#observatory.vitals();
  }

  /** Everything that is counted, for a scrape. */
  figures(): Figures {
    return this.#observatory.figures();
  }

  /** Replaces each worker by one of the installed program. @throws ErofsNbdError ERR_WORKER: the old ones serve on */
  async renewWorkers(): Promise<Renewal> {
    this.emit("renewing", true);
    try {
      return await this.#pool.renew();
    } finally {
      this.emit("renewing", false);
    }
  }

  /** See Leaving. @throws ErofsNbdError ERR_CONTROL */
  stepDown(): Promise<void> {
    return this.#leaving.stepDown();
  }

  /** See Leaving. */
  abandon(): Promise<void> {
    return this.#leaving.abandon();
  }

  /** See Leaving. */
  stop(): Promise<void> {
    return this.#leaving.stop();
  }
}
