/**
 * The DeviceView of real life: sysfs, and reads by processes that can be lost.
 *
 * Supervisors, orphans and adoption get it by default; tests pass a view of their own making.
 */
import type { DeviceView } from "./ports.ts";
import { probeDevice } from "./probe.ts";
import {
  backendOf,
  configuringThread,
  countsReads,
  deviceSizeBytes,
  findByBackend,
  ioTimeoutMs,
  readsInFlight,
  setIoTimeout,
} from "./sysfs.ts";

export const SYSFS_VIEW: DeviceView = {
  backendOf,
  configuringThread,
  countsReads,
  deviceSizeBytes,
  findByBackend,
  ioTimeoutMs,
  readsInFlight,
  setIoTimeout,
  probe: probeDevice,
};
