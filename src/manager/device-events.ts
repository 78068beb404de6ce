/**
 * Reports what happens to a device: to the log, and as events to `status --watch` and the library.
 *
 * Called by devices.ts for each device. Also marks the device's record as out of date where an event changes it.
 */
import type { DeviceEvent } from "../control/protocol.ts";
import { devicePath } from "../kernel/sysfs.ts";
import type { Log } from "../log/log.ts";
import type { ManagedDevice } from "../supervisor/managed-device.ts";
import { plural } from "../text/plural.ts";
import type { DeferredRecords } from "./records/deferred-records.ts";

/** An event without what is the same for all: the time and the device. */
type EventDetails = DeviceEvent extends infer E
  ? E extends DeviceEvent
    ? Omit<E, "at" | "device">
    : never
  : never;

export interface EventSinks {
  readonly log: Log;
  readonly deferred: DeferredRecords;
  readonly tell: (event: DeviceEvent) => void;
}

/** `nbd0`; before the kernel has assigned an index, a description. */
export const nameOf = ({ index }: ManagedDevice): string =>
  index === undefined ? "a device without an index yet" : `nbd${index}`;

export function eventOf({ index }: ManagedDevice, details: EventDetails): DeviceEvent {
  const device = index === undefined ? null : devicePath(index);
  return { at: new Date().toISOString(), device, ...details } as DeviceEvent;
}

export function reportEvents(device: ManagedDevice, { log, deferred, tell: send }: EventSinks): void {
  const name = (): string => nameOf(device);
  const tell = (details: EventDetails): void => send(eventOf(device, details));
  device.on("state", (state, before) => {
    if (state === "serving") deferred.look();
    log.info(`${name()} is ${state}`, { state, before });
    tell({ event: "state", state, before });
  });
  device.on("failover", ({ at: _, ...outcome }) => {
    const level = outcome.result === "recovered" ? "warn" : "error";
    log[level](`${name()}: ${outcome.result} after ${outcome.cause}`, { ...outcome });
    tell({ event: "failover", ...outcome });
    deferred.note(device);
  });
  device.on("stalled", (message) => {
    log.error(`${name()}: no worker serves it: ${message}`);
    tell({ event: "stalled", message });
  });
  device.on("attemptFailed", (message, attempt) => {
    log.warn(`${name()}: attempt ${attempt} failed: ${message}`);
    tell({ event: "attempt-failed", message });
  });
  device.on("timerFailed", (why) => log.error(`${name()}: cannot set its request timer: ${why}`));
  device.on("recordFailed", (why) => log.error(`${name()}: cannot write its record: ${why}`));
  device.on("moved", (workerPid, stallMs) => {
    log.info(`${name()}: moved to worker ${workerPid}`, { workerPid, stallMs });
    tell({ event: "moved", workerPid, stallMs });
    deferred.note(device);
  });
  device.on("imageChanged", (change) => {
    const { path } = device.image.spec;
    if (change === undefined) log.info(`${name()}: ${path} is the attached image again, reads succeed`);
    else log.error(`${name()}: reads fail because ${path} has changed: ${change}`);
  });
  device.on("repinned", () => deferred.note(device));
  device.on("revived", () => tell({ event: "revived" }));
  device.on("readErrors", (message, count) => {
    log.error(`${name()}: ${plural(count, "read")} failed: ${message}`, { count });
    tell({ event: "read-errors", message, count });
  });
}
