/** Devices and a manager for the tests of the live table. */
import type { DeviceStatus } from "../../../../src/control/protocol.ts";
import type { ManagerVitals } from "../../../../src/control/vitals.ts";
import { deviceStatus } from "../fake-manager.ts";

export const NOW_MS: number = Date.parse("2026-01-02T03:10:00.000Z");

export const device = (index: number, changes: Partial<DeviceStatus> = {}): DeviceStatus =>
  deviceStatus({ device: `/dev/nbd${index}`, index, identifier: `id-${index}`, ...changes });

export const manager: ManagerVitals = {
  pid: 4711,
  version: "0.1.0",
  startedAt: "2026-01-02T00:10:00.000Z",
  residentBytes: 48 << 20,
  workers: [
    { pid: 4712, isReady: true, links: 2, residentBytes: 50 << 20 },
    { pid: 4713, isReady: false, links: 0, residentBytes: 20 << 20 },
  ],
};
