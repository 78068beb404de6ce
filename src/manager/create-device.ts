/**
 * Makes the devices of a manager and writes their records.
 *
 * Owned by the manager; attach.ts and adoption/continue-device.ts get their devices here.
 */
import type { NbdControl } from "../kernel/nbd-control.ts";
import type { WorkerPool } from "../pool/worker-pool.ts";
import { IoctlDevice } from "../supervisor/ioctl/ioctl-device.ts";
import type { DeviceSettings, ManagedDevice } from "../supervisor/managed-device.ts";
import { NetlinkDevice } from "../supervisor/netlink-device.ts";
import type { Image } from "../supervisor/ports.ts";
import type { Devices } from "./devices.ts";
import type { Loans } from "./loans.ts";
import { recordOf } from "./records/record.ts";
import type { RecordStore } from "./records/record-store.ts";

export interface DeviceFactoryContext {
  readonly devices: Devices;
  readonly loans: Loans;
  readonly records: RecordStore;
  readonly pool: WorkerPool;
  readonly kernel: NbdControl;
}

export class DeviceFactory {
  readonly #context: DeviceFactoryContext;

  constructor(context: DeviceFactoryContext) {
    this.#context = context;
  }

  /** The device is one of the manager's from here on, and owns the image's descriptor. */
  create(how: "netlink" | "ioctl", settings: DeviceSettings, image: Image): ManagedDevice {
    if (how === "netlink") return this.createNetlink(settings, image);
    const { pool, devices } = this.#context;
    const device: IoctlDevice = new IoctlDevice(settings, image, pool, () => this.persist(device));
    devices.add(device);
    return device;
  }

  /** As `create`. */
  createNetlink(settings: DeviceSettings, image: Image): NetlinkDevice {
    const { kernel, pool, devices } = this.#context;
    const persist = (): Promise<void> => this.persist(device);
    const device: NetlinkDevice = new NetlinkDevice(settings, image, kernel, pool, persist);
    devices.add(device);
    return device;
  }

  /** Writes the record of a device, which is on disk then. @throws ErofsNbdError ERR_RUN_DIR */
  async persist(device: ManagedDevice): Promise<void> {
    // Its record is being removed, or is gone.
    if (device.state === "detached") return;
    const { loans, records, pool } = this.#context;
    const lentTo = loans.processOf(device.settings.identifier);
    await records.write(recordOf(device, pool.pids, lentTo));
  }
}
