/**
 * Finding what a dead manager left behind, and going on with it: once, when a manager starts.
 *
 * The record says what was meant, the kernel says what is, the workers say what they serve. A device that carries our
 * identifier is ours. Where its workers live they have told their links, and nothing stands still. Where they are dead,
 * or do not answer and have to be ended (only a dead socket can be replaced), it becomes a failover from the start.
 * Devices without our identifier are never touched. What cannot be mended is kept visible.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type DeviceView, SYSFS_VIEW } from "../../kernel/device-view.ts";
import type { Log } from "../../log/log.ts";
import type { PooledFoundLink } from "../../pool/found-link.ts";
import { describeChange, describeDoubt, isSameFile } from "../../source/file-identity.ts";
import { openImage } from "../../source/open-image.ts";
import { openModule } from "../../source/open-module.ts";
import { pathView } from "../../source/path-view.ts";
import { type SourceSpec, sourceUri } from "../../source/source-spec.ts";
import type { ManagedDevice } from "../../supervisor/managed-device.ts";
import type { Image, NbdCommands } from "../../supervisor/ports.ts";
import { close } from "../../sys/libc.ts";
import { isAlive, type ProcessIdentity } from "../../sys/process-identity.ts";
import type { DeviceRecord } from "../records/record.ts";
import type { RecordStore } from "../records/record-store.ts";
import { LeftoverDevice } from "./leftover-device.ts";
import { releaseUnclaimed } from "./unclaimed-links.ts";

export interface AdoptionContext {
  readonly log: Log;
  readonly nbd: Pick<NbdCommands, "disconnect">;
  /** Links that former managers' workers have told of. */
  readonly links: readonly PooledFoundLink[];
  /** Those workers: they are ours now, and not to be ended. */
  readonly reattachedPids: readonly number[];
  /** Workers that are there and did not answer. */
  readonly silent: readonly ProcessIdentity[];
  /** Go on with a netlink device, with those links or with none. Takes the image's descriptor over. */
  readonly adopt: (
    record: DeviceRecord,
    image: Image,
    index: number,
    links: readonly PooledFoundLink[],
  ) => Promise<void>;
  /** Keep a device that can be shown and ended, no more. */
  readonly keep: (device: ManagedDevice) => void;
  /** What the kernel shows; sysfs unless a test says otherwise. */
  readonly view?: Pick<DeviceView, "findByBackend" | "backendOf" | "configuringThread" | "readsInFlight">;
}

/** What a record's device is served from, opened again; whoever gets it closes `fd`. */
interface Reopened {
  readonly fd: number;
  readonly spec: SourceSpec;
}

/**
 * A netlink device that the kernel still has, and its image if that is still the one that was attached; else why
 * not.
 */
interface Found {
  readonly record: DeviceRecord;
  readonly index: number;
  readonly image: Reopened | undefined;
  readonly loss: Loss | undefined;
}

/** Why an image was not opened again, and what gives it back. */
interface Loss {
  readonly why: string;
  readonly remedy: string;
}

/** The receivers of the killed workers' sockets need a moment to notice (kernel: recv_work). */
const SETTLE_MS = 60;
/** What gives a device its image back, when nothing else can. */
const HAND_IN = "erofs-nbd attach IMAGE";
/** A worker inside an uninterruptible read ignores SIGKILL for as long as that takes: the start does not. */
const KILL_PATIENCE_MS = 5000;

/** Returns lines about what was found, for the user who caused the start. */
export async function adoptDevices(records: RecordStore, context: AdoptionContext): Promise<string[]> {
  const notes: string[] = [];
  const note = (message: string): void => {
    notes.push(message);
    context.log.warn(message);
  };
  const loaded = records.load();
  for (const path of loaded.unreadable)
    note(`${path} is not a record that this version understands: left alone`);
  for (const record of loaded.stale) {
    note(`${record.image.path} was attached before the machine was booted: its record is cleared`);
    await records.remove(record.identifier);
  }
  const found: Found[] = [];
  const unclaimed = new Set(context.links);
  const linksOf = ({ identifier, image }: DeviceRecord): PooledFoundLink[] => {
    const links = context.links.filter(({ device }) => device === identifier);
    for (const link of links) unclaimed.delete(link);
    const strange = links.filter(({ imageFd }) => !isOpen(image, imageFd));
    for (const link of strange) {
      note(`worker ${link.workerPid} serves ${image.path} from another file: its link is given up`);
      link.close();
    }
    return links.filter((link) => !strange.includes(link));
  };
  /** Workers that somebody depends on who cannot be given another one. */
  const needed: ProcessIdentity[] = [];
  for (const record of loaded.records) {
    if (record.interface === "ioctl") {
      const links = linksOf(record);
      const servers = serversOf(record, links, context);
      const isThere = await takeIoctl(record, servers, records, context, note);
      if (isThere) needed.push(...servers);
      for (const link of links) isThere ? link.leave() : link.close();
      continue;
    }
    const index = indexOf(record, context.view ?? SYSFS_VIEW);
    if (index === undefined) {
      note(`${record.image.path} is no longer attached: its record is cleared`);
      await records.remove(record.identifier);
      continue;
    }
    const links = linksOf(record);
    if (links.length > 0)
      await goOn(record, index, links, context, note).catch((error: unknown) =>
        // One device that cannot be gone on with must not cost the others their manager.
        note(`nbd${index} (${record.image.path}) cannot be gone on with: ${String(error)}`),
      );
    else {
      const image = reopen(record);
      const isLost = "why" in image;
      if (isLost) note(image.why);
      found.push({ record, index, image: isLost ? undefined : image, loss: isLost ? image : undefined });
    }
  }
  for (const link of unclaimed)
    releaseUnclaimed(link, loaded.unreadable.length > 0, context.view ?? SYSFS_VIEW, note);
  await takeNetlink(found, needed, context, note);
  return notes;
}

/** Whether a descriptor is of the record's image. A worker loads a module by its path. */
const isOpen = (spec: SourceSpec, fd: number): boolean =>
  spec.type === "module" || isSameFile(fd, spec.identity);

/** Where the kernel has the record's device. All indexes are looked at only if the one in the record is not it. */
function indexOf(
  { index, identifier }: DeviceRecord,
  view: Pick<DeviceView, "backendOf" | "findByBackend">,
): number | undefined {
  return index !== null && view.backendOf(index) === identifier ? index : view.findByBackend(identifier);
}

/** Which processes may serve a record's device: those that have told so, or any that have not been heard. */
function serversOf(
  { workers }: DeviceRecord,
  links: readonly PooledFoundLink[],
  { reattachedPids }: AdoptionContext,
): ProcessIdentity[] {
  const told = new Set(links.map(({ workerPid }) => workerPid));
  return workers.filter(({ pid }) => (told.size > 0 ? told.has(pid) : !reattachedPids.includes(pid)));
}

/** Its workers serve it: the image is the one they have open, whatever lies at its path by now. */
async function goOn(
  record: DeviceRecord,
  index: number,
  links: readonly PooledFoundLink[],
  context: AdoptionContext,
  note: (message: string) => void,
): Promise<void> {
  const [first, ...others] = links as [PooledFoundLink, ...PooledFoundLink[]];
  for (const { imageFd } of others) close(imageFd);
  const image = { spec: record.image, fd: first.imageFd, blockSizeBytes: record.blockSizeBytes };
  const served = `${links.length} of ${record.connections} links served`;
  note(`nbd${index} (${record.image.path}) was left by manager ${record.manager.pid}: ${served}, going on`);
  await context.adopt(record, image, index, links);
}

/** The image by its path, if what is there now is what was attached. */
function reopen({ image: spec }: DeviceRecord): Reopened | Loss {
  const lost = (why: string): Loss => ({ why, remedy: `hand the image in: ${HAND_IN}` });
  try {
    if (spec.type === "module" && spec.view !== undefined && spec.view !== pathView())
      return lost(`${spec.path} was loaded in another mount namespace, or under another root`);
    // What it makes of its options now is for the workers to compare.
    if (spec.type === "module") return { fd: openModule(spec.path).fd, spec };
    if (spec.isHandedIn)
      return lost(`${sourceUri(spec)} was handed in as a descriptor: no path leads to it from here`);
    const image = openImage(spec.path);
    const change = describeChange(spec.identity, image.spec.identity);
    const doubt = describeDoubt(spec.identity, image.spec.identity);
    if (change === undefined && doubt === undefined) return image;
    close(image.fd);
    if (change !== undefined) return lost(`${spec.path} is not what was attached: ${change}`);
    return {
      why: `${spec.path} may not be what was attached: ${doubt}`,
      remedy: `if its bytes are the same, hand it in: ${HAND_IN}`,
    };
  } catch (error) {
    return lost(error instanceof Error ? error.message : String(error));
  }
}

/**
 * The devices whose workers may be ended: their image is there, and no worker of theirs serves a device that has to
 * keep it. A device left out needs its own workers in turn, so this goes on until nothing changes.
 */
function chooseMendable(
  found: readonly Found[],
  needed: readonly ProcessIdentity[],
  met: readonly number[],
): { readonly mendable: readonly Found[]; readonly taken: ReadonlySet<number> } {
  // Those that have answered are not ended, so nobody has to be spared for them.
  const alive = (workers: readonly ProcessIdentity[]): number[] =>
    workers.filter((worker) => !met.includes(worker.pid) && isAlive(worker)).map(({ pid }) => pid);
  const taken = new Set(alive(needed));
  let mendable = [...found];
  for (;;) {
    const left = mendable.filter(
      ({ image, record }) => image === undefined || alive(record.workers).some((pid) => taken.has(pid)),
    );
    if (left.length === 0) return { mendable, taken };
    for (const { record } of left) for (const pid of alive(record.workers)) taken.add(pid);
    mendable = mendable.filter((one) => !left.includes(one));
  }
}

/** Ends the processes and waits until they have let go of their sockets; false when one would not die in time. */
async function endWorkers(workers: readonly ProcessIdentity[]): Promise<boolean> {
  for (const worker of workers.filter(isAlive)) {
    try {
      process.kill(worker.pid, "SIGKILL");
    } catch {
      // ESRCH: it has just ended by itself.
    }
  }
  const end = performance.now() + KILL_PATIENCE_MS;
  while (workers.some(isAlive) && performance.now() < end) await sleep(5);
  await sleep(SETTLE_MS);
  return !workers.some(isAlive);
}

async function takeNetlink(
  found: readonly Found[],
  needed: readonly ProcessIdentity[],
  context: AdoptionContext,
  note: (message: string) => void,
): Promise<void> {
  const { mendable, taken } = chooseMendable(found, needed, context.reattachedPids);
  // The records' workers, too: a manager of a former version named its sockets otherwise.
  const silent = [...mendable.flatMap(({ record }) => record.workers), ...context.silent].filter(
    ({ pid }) => !context.reattachedPids.includes(pid) && !taken.has(pid),
  );
  if (silent.length > 0 && !(await endWorkers(silent)))
    note("an old worker could not be ended: reads of its devices wait until it is gone");

  // Those that reads wait on come first: there may be hundreds, most of which nobody would miss for a while.
  const { readsInFlight } = context.view ?? SYSFS_VIEW;
  const waiting = new Map(found.map((one) => [one, readsInFlight(one.index)]));
  for (const one of [...found].sort((a, b) => (waiting.get(b) ?? 0) - (waiting.get(a) ?? 0))) {
    const { record, index, image, loss } = one;
    const name = `nbd${index} (${record.image.path})`;
    if (image !== undefined && mendable.includes(one)) {
      note(`${name} was left by manager ${record.manager.pid}, which is dead: taken over`);
      const { spec, fd } = image;
      await context
        .adopt(record, { spec, fd, blockSizeBytes: record.blockSizeBytes }, index, [])
        .catch((error: unknown) => note(`${name} cannot be gone on with: ${String(error)}`));
      continue;
    }
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
    note(
      `${name} was left by manager ${record.manager.pid}, which is dead, and ${why}: ` +
        `its old worker, if any, serves on; ${remedy}`,
    );
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
}

/** The legacy path cannot be reconnected: while its process lives the device is shown and can be detached (true). */
async function takeIoctl(
  record: DeviceRecord,
  servers: readonly ProcessIdentity[],
  records: RecordStore,
  context: AdoptionContext,
  note: (message: string) => void,
): Promise<boolean> {
  const { client, index } = record;
  const { configuringThread } = context.view ?? SYSFS_VIEW;
  if (client !== null && index !== null && isAlive(client) && configuringThread(index) === client.pid) {
    note(
      `nbd${index} (${record.image.path}) was attached by ioctl by a manager that is dead: its worker serves on`,
    );
    context.keep(
      new LeftoverDevice(
        record,
        index,
        { spec: record.image, fd: -1, blockSizeBytes: record.blockSizeBytes },
        { servers, why: "it is attached by ioctl, where no other can go on" },
        context.nbd,
        context.view,
      ),
    );
    return true;
  }
  note(`${record.image.path} is no longer attached: its record is cleared`);
  await records.remove(record.identifier);
  return false;
}
