/**
 * The state of nbd devices as sysfs and mountinfo show it.
 *
 * Reading these files touches neither the device nor what is mounted on it, so none of this can hang on a dead
 * link. (Writing a queue attribute can, while requests are in flight: see `setIoTimeout`.)
 */
import { closeSync, constants, existsSync, openSync, readdirSync, readSync } from "node:fs";
import { open, readFile, writeFile } from "node:fs/promises";
import { hasCode } from "../errors.ts";

const SECTOR_BYTES = 512;

export const devicePath = (index: number): string => `/dev/nbd${index}`;
const sysfsPath = (index: number, name: string): string => `/sys/block/nbd${index}/${name}`;

/** No attribute is longer than a page. */
const page = Buffer.alloc(4096);

/**
 * The first line of a sysfs file, or undefined when it does not exist (any more). Three system calls, because when a
 * worker of hundreds of devices dies, reads wait for as many of these.
 */
function attribute(index: number, name: string): string | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(sysfsPath(index, name), "r");
    return page.toString("utf8", 0, readSync(fd, page)).split("\n", 1)[0];
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENODEV", "ENXIO")) return undefined;
    throw error;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** The backend identifier of a netlink device; "" when it has none; undefined when it is not configured by netlink. */
export const backendOf = (index: number): string | undefined => attribute(index, "backend");

/** The id of the thread that configured the device (not of a process); undefined when it is not configured. */
export function configuringThread(index: number): number | undefined {
  const text = attribute(index, "pid");
  return text === undefined ? undefined : Number(text);
}

/** Size in bytes; 0 when not configured, undefined when there is no such device. */
export function deviceSizeBytes(index: number): number | undefined {
  const text = attribute(index, "size");
  return text === undefined ? undefined : Number(text) * SECTOR_BYTES;
}

/** Reads that the kernel has sent, or tried to send, and that have not ended. 0 when the device is gone. */
export function readsInFlight(index: number): number {
  return Number(attribute(index, "inflight")?.trim().split(/\s+/)[0] ?? 0);
}

/** Whether the kernel keeps that count: an administrator may have switched a queue's statistics off. */
export function countsReads(index: number): boolean {
  return attribute(index, "queue/iostats") === "1";
}

/** Indexes of all nbd devices, configured or not, in order. */
export function deviceIndexes(): number[] {
  return readdirSync("/sys/block")
    .map((name) => /^nbd(\d+)$/.exec(name)?.[1])
    .filter((digits) => digits !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
}

/** The device with this identifier, if there is one. */
export function findByBackend(identifier: string): number | undefined {
  return deviceIndexes().find((index) => backendOf(index) === identifier);
}

/** The block layer's request timer; undefined when there is no such device. */
export function ioTimeoutMs(index: number): number | undefined {
  const text = attribute(index, "queue/io_timeout");
  return text === undefined ? undefined : Number(text);
}

/**
 * Sets the block layer's request timer in milliseconds. With one connection and TIMEOUT 0 its expiry only requeues
 * reads whose socket was replaced (nbd_xmit_timeout). Some kernels freeze the queue for this write: only while no
 * read is in flight, and never during an outage.
 */
export async function setIoTimeout(index: number, milliseconds: number): Promise<void> {
  await writeFile(sysfsPath(index, "queue/io_timeout"), `${milliseconds}\n`);
}

/** The device number as mountinfo writes it, for example 43:0. */
export function deviceNumber(index: number): string | undefined {
  return attribute(index, "dev");
}

export interface MissingNode {
  readonly path: string;
  /** Major and minor, such as "43 0". */
  readonly number: string;
}

/** Looks at /dev alone: a node that exists is not opened. */
export function missingNode(index: number): MissingNode | undefined {
  const path = devicePath(index);
  const number = deviceNumber(index)?.replace(":", " ");
  return number === undefined || existsSync(path) ? undefined : { path, number };
}

/** Mount points by device number, in the order of mounting. */
export type MountTable = ReadonlyMap<string, readonly string[]>;

/** What is mounted in this mount namespace, read once for any number of devices. */
export async function readMounts(): Promise<MountTable> {
  const table = new Map<string, string[]>();
  for (const line of (await readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
    const [, , number, , path] = line.split(" ", 5);
    if (number === undefined || path === undefined) continue;
    const paths = table.get(number);
    if (paths === undefined) table.set(number, [decodeMountPath(path)]);
    else paths.push(decodeMountPath(path));
  }
  return table;
}

/** Where a device is mounted in this mount namespace, in the order of mounting. */
export async function mountPointsOf(index: number, mounts?: MountTable): Promise<string[]> {
  const number = deviceNumber(index);
  return number === undefined ? [] : [...((mounts ?? (await readMounts())).get(number) ?? [])];
}

/** mountinfo writes space, tab, newline and backslash as three octal digits (proc(5)). */
function decodeMountPath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** The nbd device index that is mounted at a path, if one is; the last mounted wins. */
export async function indexMountedAt(path: string): Promise<number | undefined> {
  const lines = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").reverse();
  const fields = lines.map((line) => line.split(" ")).find((line) => decodeMountPath(line[4] ?? "") === path);
  if (fields === undefined) return undefined;
  return deviceIndexes().find((index) => deviceNumber(index) === fields[2]);
}

/**
 * Whether the device is opened exclusively: by a mount in any namespace, dm, swap. Not for a device whose links are
 * dead, because opening it could wait for them. Runs on the thread pool.
 */
export async function isExclusivelyHeld(index: number): Promise<boolean> {
  try {
    const handle = await open(devicePath(index), constants.O_RDONLY | constants.O_EXCL);
    await handle.close();
    return false;
  } catch (error) {
    return hasCode(error, "EBUSY");
  }
}
