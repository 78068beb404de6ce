/**
 * Waits until a device can be used after CONNECT: its size shows, its partition scan is over, its first block was read.
 *
 * Used by KernelDevice. The attach is answered only after that. The read is made by a process that can be lost; opening
 * the device makes the kernel read the partition table.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../errors.ts";
import type { DeviceView } from "../kernel/device-view.ts";
import { withDeadline } from "../sys/deadline.ts";

export interface WantedDevice {
  readonly index: number;
  readonly sizeBytes: number;
  readonly deadlineMs: number;
}

const POLL_MS = 10;
const PROBE_AGAIN_MS = 100;

/** `life` aborts when the device ends. @throws ErofsNbdError ERR_NOT_READABLE */
export async function waitUntilReadable(
  wanted: WantedDevice,
  view: DeviceView,
  life: AbortSignal,
): Promise<void> {
  const why = await withDeadline(wanted.deadlineMs, life, (patience) =>
    readFirstBlock(wanted, view, patience),
  );
  if (why === undefined) return;
  const node = life.aborted ? undefined : view.missingNode(wanted.index);
  const reason = life.aborted
    ? "it was ended meanwhile"
    : node === undefined
      ? why
      : `there is no ${node.path}`;
  const hint =
    node === undefined
      ? "the kernel log may tell more (dmesg)"
      : `give the container the host's /dev, or make the node: mknod ${node.path} b ${node.number}`;
  throw new ErofsNbdError(
    "ERR_NOT_READABLE",
    `cannot read nbd${wanted.index} after attaching it: ${reason}`,
    { hint: `${hint}; the device was detached again` },
  );
}

/** Undefined when the device was read, or what was missing when the deadline passed. */
async function readFirstBlock(
  { index, sizeBytes }: WantedDevice,
  view: DeviceView,
  patience: AbortSignal,
): Promise<string | undefined> {
  while (view.deviceSizeBytes(index) !== sizeBytes && !patience.aborted) await sleep(POLL_MS);
  let why = `its size did not become ${sizeBytes} bytes`;
  while (!patience.aborted) {
    const result = await view.probe(index, patience);
    if (result.ok) return undefined;
    why = result.why;
    await sleep(PROBE_AGAIN_MS, undefined, { signal: patience }).catch(() => {});
  }
  return why;
}
