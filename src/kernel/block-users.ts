/**
 * What lies on an nbd device or its partitions, and on which nbd devices a block device or a file system lies.
 *
 * Used before a detach, and to keep links apart of which one waits for the other. As in sysfs.ts nothing here touches a
 * device, so it can be asked in an outage, too. Mounts of other mount namespaces do not show (isExclusivelyHeld).
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import { deviceNumber, readMounts } from "./sysfs.ts";

/** Where a device or a partition of it is mounted in this mount namespace. */
export async function mountPointsOn(index: number): Promise<string[]> {
  const mounts = await readMounts();
  const numbers = [
    deviceNumber(index),
    ...partitionsOf(index).map((name) => lineOf(`/sys/class/block/${name}/dev`)),
  ];
  return numbers.flatMap((number) => mounts.get(number ?? "") ?? []);
}

/** The kernel's other users of a device and its partitions: names such as dm-0 and loop3, or "swap". */
export function holdersOf(index: number): string[] {
  const names = [`nbd${index}`, ...partitionsOf(index)];
  const holders = names.flatMap((name) => namesIn(`/sys/class/block/${name}/holders`));
  const nodes = names.map((name) => `/dev/${name}`);
  // A loop device opens its backing file as a program does, and does not become a holder of it.
  const loops = namesIn("/sys/block").filter((name) => {
    const path = loopFile(name);
    return path !== undefined && nodes.includes(path);
  });
  const swaps = linesOf("/proc/swaps").map((line) => line.split(/\s/, 1)[0] ?? "");
  return [
    ...new Set([...holders, ...loops, ...(nodes.some((node) => swaps.includes(node)) ? ["swap"] : [])]),
  ];
}

/**
 * The nbd devices that a block device lies on: itself, that of a partition, and those below dm, md and loop devices.
 *
 * @param number of the device, or of a file's file system, such as 43:0. File systems without a device have none
 */
export function nbdBelow(number: string | undefined): number[] {
  try {
    return [...new Set(belowName(basename(readlinkSync(`/sys/dev/block/${number}`))))];
  } catch {
    return [];
  }
}

function belowName(name: string): number[] {
  const digits = /^nbd(\d+)(p\d+)?$/.exec(name)?.[1];
  if (digits !== undefined) return [Number(digits)];
  const path = loopFile(name);
  if (path !== undefined) return path.startsWith("/dev/") ? belowName(basename(path)) : [];
  return namesIn(`/sys/class/block/${name}/slaves`).flatMap(belowName);
}

/** What a loop device lies on; undefined for every other device. */
const loopFile = (name: string): string | undefined =>
  name.startsWith("loop") ? lineOf(`/sys/block/${name}/loop/backing_file`) : undefined;

const partitionsOf = (index: number): string[] =>
  namesIn(`/sys/block/nbd${index}`).filter((name) => name.startsWith(`nbd${index}p`));

/** No names where there is no such directory (any more). */
function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function linesOf(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\n");
  } catch {
    return [];
  }
}

const lineOf = (path: string): string | undefined => linesOf(path)[0];
