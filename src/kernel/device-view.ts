/**
 * What the kernel shows of a device without netlink: sysfs, and reads by processes that can be lost.
 *
 * Devices, leftover devices and adoption use SYSFS_VIEW by default; tests pass their own.
 */
import { nbdBelow } from "./block-users.ts";
import { type ProbeResult, probeDevice } from "./probe.ts";
import {
  backendOf,
  configuringThread,
  countsReads,
  deviceSizeBytes,
  findByBackend,
  ioTimeoutMs,
  type MissingNode,
  missingNode,
  readsInFlight,
  setIoTimeout,
} from "./sysfs.ts";

/** What can be seen of a device without netlink. */
export interface DeviceView {
  /** The identifier that the kernel keeps with a device; undefined when it is not configured by netlink. */
  backendOf(index: number): string | undefined;
  /** Undefined when the device is not configured. */
  configuringThread(index: number): number | undefined;
  deviceSizeBytes(index: number): number | undefined;
  findByBackend(identifier: string): number | undefined;
  readsInFlight(index: number): number;
  /** Whether the kernel keeps that number for the device (queue/iostats). */
  countsReads(index: number): boolean;
  /** The block layer's request timer in ms; undefined when there is no such device. */
  ioTimeoutMs(index: number): number | undefined;
  setIoTimeout(index: number, milliseconds: number): Promise<void>;
  /** The node of a device if /dev does not have it, as in a container, with its numbers as mknod(1) takes them. */
  missingNode(index: number): MissingNode | undefined;
  /** The nbd devices below a block device or file system with this number, such as 43:0. */
  nbdBelow(number: string | undefined): readonly number[];
  /** Reads the first block, in a process that can be lost. Never rejects. */
  probe(index: number, signal: AbortSignal): Promise<ProbeResult>;
}

export const SYSFS_VIEW: DeviceView = {
  backendOf,
  configuringThread,
  countsReads,
  deviceSizeBytes,
  findByBackend,
  ioTimeoutMs,
  missingNode,
  nbdBelow,
  readsInFlight,
  setIoTimeout,
  probe: probeDevice,
};
