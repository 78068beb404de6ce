/**
 * Netlink devices of a former manager that no reattached worker serves.
 *
 * Used by adoption.ts. Their old workers are dead or do not answer. A silent worker is killed, because the kernel
 * replaces only dead sockets, and the device begins with a failover. Where the image cannot be opened again, the old
 * worker is the only process that has it: it is spared, and so are the workers of devices that share it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { SYSFS_VIEW } from "../../kernel/device-view.ts";
import { isAlive, type ProcessIdentity } from "../../sys/process-identity.ts";
import type { DeviceRecord } from "../records/record.ts";
import { type AdoptionContext, cannotContinue, type Note, serversOf } from "./adoption-context.ts";
import { LeftoverDevice } from "./leftover-device.ts";
import { HAND_IN, type LostImage, type ReopenedImage, reopenImage } from "./reopen-image.ts";

export interface UnservedDevice {
  readonly record: DeviceRecord;
  readonly index: number;
}

/** With its image, or why that is lost. */
interface Candidate extends UnservedDevice {
  readonly image: ReopenedImage | undefined;
  readonly loss: LostImage | undefined;
}

/** The kernel's receivers of the killed workers' sockets need a moment to notice (recv_work). */
const SETTLE_MS = 60;
/** A worker in an uninterruptible read ignores SIGKILL until the read ends: the start does not wait for that. */
const KILL_PATIENCE_MS = 5000;

/** `needed`: workers that must not be ended. */
export async function takeOverUnserved(
  devices: readonly UnservedDevice[],
  needed: readonly ProcessIdentity[],
  context: AdoptionContext,
  note: Note,
): Promise<void> {
  const candidates = devices.map((device) => withImage(device, note));
  const { mendable, spared } = chooseMendable(candidates, needed, context.reattachedPids);
  // Workers in records, too: managers of former versions named the sockets of workers differently.
  const silent = [...mendable.flatMap(({ record }) => record.workers), ...context.silent].filter(
    ({ pid }) => !context.reattachedPids.includes(pid) && !spared.has(pid),
  );
  if (silent.length > 0 && !(await endWorkers(silent, context.isHeld ?? isAlive)))
    note("an old worker could not be killed: reads of its devices wait until it has ended");

  // Devices with waiting reads come first: there may be hundreds of others.
  const { readsInFlight } = context.view ?? SYSFS_VIEW;
  const waiting = new Map(candidates.map((one) => [one, readsInFlight(one.index)]));
  for (const one of [...candidates].sort((a, b) => (waiting.get(b) ?? 0) - (waiting.get(a) ?? 0))) {
    const { record, index, image } = one;
    if (image !== undefined && mendable.includes(one)) {
      note(`${describeLeft(one)}: taken over`);
      await context
        .adopt(record, { ...image, blockSizeBytes: record.blockSizeBytes }, index, [])
        .catch((error: unknown) => note(cannotContinue(record, index, error)));
    } else keepLeftover(one, context, note);
  }
}

function withImage(device: UnservedDevice, note: Note): Candidate {
  const image = reopenImage(device.record);
  if (!("why" in image)) return { ...device, image, loss: undefined };
  note(image.why);
  return { ...device, image: undefined, loss: image };
}

const describeLeft = ({ record, index }: UnservedDevice): string =>
  `nbd${index} (${record.image.path}) was left by manager ${record.manager.pid}, which is dead`;

/**
 * The devices whose workers may be ended: their image is there, and none of their workers is needed by a device that
 * has to keep it. A device that is left out needs its own workers in turn, so this repeats until nothing changes.
 */
function chooseMendable(
  candidates: readonly Candidate[],
  needed: readonly ProcessIdentity[],
  reattached: readonly number[],
): { readonly mendable: readonly Candidate[]; readonly spared: ReadonlySet<number> } {
  // Reattached workers are not ended in any case.
  const alive = (workers: readonly ProcessIdentity[]): number[] =>
    workers.filter((worker) => !reattached.includes(worker.pid) && isAlive(worker)).map(({ pid }) => pid);
  const spared = new Set(alive(needed));
  let mendable = [...candidates];
  for (;;) {
    const left = mendable.filter(
      ({ image, record }) => image === undefined || alive(record.workers).some((pid) => spared.has(pid)),
    );
    if (left.length === 0) return { mendable, spared };
    for (const { record } of left) for (const pid of alive(record.workers)) spared.add(pid);
    mendable = mendable.filter((one) => !left.includes(one));
  }
}

/**
 * Kills the processes and waits until their sockets are closed. Returns false if one is not closed in time. A zombie
 * may still have them: only its first thread has ended for sure.
 */
async function endWorkers(
  workers: readonly ProcessIdentity[],
  isHeld: (worker: ProcessIdentity) => boolean,
): Promise<boolean> {
  for (const worker of workers.filter(isAlive)) {
    try {
      process.kill(worker.pid, "SIGKILL");
    } catch {
      // ESRCH: it has just ended by itself.
    }
  }
  const end = performance.now() + KILL_PATIENCE_MS;
  while (workers.some(isHeld) && performance.now() < end) await sleep(5);
  await sleep(SETTLE_MS);
  return !workers.some(isHeld);
}

/** Keeps a device whose workers cannot be replaced. */
function keepLeftover(device: Candidate, context: AdoptionContext, note: Note): void {
  const { record, index, image, loss } = device;
  const why =
    image === undefined
      ? "its image is no longer what was attached"
      : "it may share its worker with a device that needs that one";
  const awaits =
    loss !== undefined && record.image.type === "file" ? `${loss.why}; ${loss.remedy}` : undefined;
  const remedy =
    awaits === undefined
      ? "detach it and attach it again"
      : `it goes on when it gets it back (${HAND_IN}), or detach it`;
  note(`${describeLeft(device)}, and ${why}: its old worker, if any, serves on; ${remedy}`);
  context.keep(
    new LeftoverDevice(
      record,
      index,
      { spec: record.image, fd: image?.fd ?? -1, blockSizeBytes: record.blockSizeBytes },
      { servers: serversOf(record, [], context), why, awaits },
      context.nbd,
      context.view,
    ),
  );
}
