/**
 * What a manager does with the workers and devices of a former one when it starts. Called once, by the manager.
 */
import type { RunDir } from "../../control/run-dir.ts";
import type { NbdControl } from "../../kernel/nbd-control.ts";
import type { FoundLink } from "../../pool/links/found-link.ts";
import { holdsLinks, reattachWorkers } from "../../pool/reattach.ts";
import type { WorkerPool } from "../../pool/worker-pool.ts";
import type { ManagedDevice } from "../../supervisor/managed-device.ts";
import type { Image } from "../../supervisor/ports.ts";
import type { ProcessIdentity } from "../../sys/process-identity.ts";
import type { Leaving } from "../leave.ts";
import type { DeviceRecord } from "../records/record.ts";
import type { RecordStore } from "../records/record-store.ts";
import { adoptDevices } from "./adoption.ts";
import { type ContinuationContext, continueDevice } from "./continue-device.ts";
import { ImageOpeners } from "./image-openers.ts";
import { awaitImage } from "./late-image.ts";
import { openRecorded } from "./recorded-image.ts";
import { SilentWorkers, type SilentWorkersContext } from "./silent-workers.ts";
import { removeUnusedJournals } from "./unclaimed-links.ts";

export interface StartAdoptionContext extends ContinuationContext {
  readonly runDir: RunDir;
  readonly kernel: NbdControl;
  readonly pool: WorkerPool;
  readonly records: RecordStore;
  readonly leaving: Leaving;
  /** Where the stderr of other processes goes. */
  readonly stderr: number | "inherit" | "ignore";
  /** Starts the workers of this manager, beside those that were found. */
  readonly startWorkers: () => void;
}

/** Returns notes for the user whose command started the manager. */
export async function adoptAtStart(context: StartAdoptionContext): Promise<string[]> {
  const { log, devices, runDir, kernel, pool, records, leaving, stderr, startWorkers } = context;
  const { workers, journals } = runDir;
  const { reattached, silent } = await reattachWorkers(workers, journals);
  const links = reattached.flatMap((worker) => pool.adopt(worker));
  startWorkers();
  // A silent worker may use others.
  if (silent.length === 0) removeUnusedJournals(journals, links);
  const openers = new ImageOpeners({ log, stderr });
  leaving.before(() => openers.close());
  const adoption: SilentWorkersContext["adoption"] = {
    log,
    nbd: kernel,
    isHeld: (worker: ProcessIdentity) => holdsLinks(workers, worker),
    adopt: (record: DeviceRecord, image: Image, index: number, found: readonly FoundLink[]) =>
      continueDevice(context, record, image, index, found),
    open: (record) => openRecorded(openers, record),
    awaitImage: (device, opening) => awaitImage(context, device, opening),
    keep: (device: ManagedDevice) => devices.add(device),
  };
  const awaitWorkers = new SilentWorkers({
    workers,
    journals,
    records,
    adoptWorker: (worker) => pool.adopt(worker),
    release: (device) => devices.takeBack(device),
    adoption,
  });
  leaving.before(() => awaitWorkers.end());
  const reattachedPids = reattached.map(({ pid }) => pid);
  return adoptDevices(records, { ...adoption, links, reattachedPids, silent, awaitWorkers });
}
