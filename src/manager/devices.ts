/**
 * The devices of one manager, by identifier, from before their attach begins until they are released.
 *
 * Made by manager.ts. Everything that has to happen when a device comes or goes happens here: its events are
 * reported, its traffic is measured, and its release closes the image and removes the record.
 */
import type { DeviceEvent } from "../control/protocol.ts";
import type { Log } from "../log/log.ts";
import type { ManagedDevice } from "../supervisor/managed-device.ts";
import { NetlinkDevice } from "../supervisor/netlink-device.ts";
import { close } from "../sys/libc/files.ts";
import type { LeftoverDevice } from "./adoption/leftover-device.ts";
import { eventOf, nameOf, reportEvents } from "./device-events.ts";
import type { Loans } from "./loans.ts";
import type { Observatory } from "./metrics/observatory.ts";
import type { DeferredRecords } from "./records/deferred-records.ts";
import type { RecordStore } from "./records/record-store.ts";

export interface DevicesContext {
  readonly log: Log;
  readonly records: RecordStore;
  readonly deferred: DeferredRecords;
  readonly observatory: Observatory;
  readonly loans: Loans;
  readonly tell: (event: DeviceEvent) => void;
  /** Called when the last device has been released. */
  readonly idle: () => void;
}

export class Devices {
  readonly #context: DevicesContext;
  readonly #devices = new Map<string, ManagedDevice>();
  /** Devices that have ended and whose record is being removed, with the promise for that. */
  readonly #releasing = new Map<string, Promise<void>>();

  constructor(context: DevicesContext) {
    this.#context = context;
  }

  get all(): ManagedDevice[] {
    return [...this.#devices.values()];
  }

  get netlink(): NetlinkDevice[] {
    return this.all.filter((device) => device instanceof NetlinkDevice);
  }

  get count(): number {
    return this.#devices.size;
  }

  get isReleasing(): boolean {
    return this.#releasing.size > 0;
  }

  get(identifier: string): ManagedDevice | undefined {
    return this.#devices.get(identifier);
  }

  /** The device that has the file system: another one for a device with further data of it. */
  mainOf(device: ManagedDevice): ManagedDevice {
    return this.get(device.settings.extraOf ?? "") ?? device;
  }

  /** Resolves when a device that has ended is gone completely, its record included. */
  async released({ settings: { identifier } }: ManagedDevice): Promise<void> {
    await this.#releasing.get(identifier);
  }

  add(device: ManagedDevice): void {
    const { identifier } = device.settings;
    this.#devices.set(identifier, device);
    this.#context.observatory.own(device);
    reportEvents(device, this.#context);
    device.once("released", (why) => {
      const removed = this.#release(device, why).finally(() => this.#releasing.delete(identifier));
      this.#releasing.set(identifier, removed);
    });
  }

  /** Drops a leftover device that another object is to continue. False if it is ending, or has ended. */
  takeBack(device: LeftoverDevice): boolean {
    if (this.get(device.settings.identifier) !== device || device.state === "detaching") return false;
    device.leave();
    this.forget(device);
    return true;
  }

  /** Drops a device and closes its image. The record stays: the device itself may not have ended. */
  forget(device: ManagedDevice): void {
    const { identifier } = device.settings;
    this.#devices.delete(identifier);
    this.#context.loans.end(identifier);
    this.#context.observatory.disown(device);
    close(device.image.fd);
  }

  async #release(device: ManagedDevice, why: string): Promise<void> {
    const { log, records, tell, idle } = this.#context;
    this.forget(device);
    await records.remove(device.settings.identifier).catch((error: unknown) => log.error(String(error)));
    log.info(`${nameOf(device)} ended: ${why}`);
    tell(eventOf(device, { event: "detached", message: why }));
    if (this.#devices.size === 0) idle();
  }
}
