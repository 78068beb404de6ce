/**
 * Finds what a dead manager left behind and goes on with it. Runs once, when a manager starts.
 *
 * Records say what was attached, the kernel says which devices exist, and reattached workers say what they serve. A
 * device belongs to this manager if it carries the identifier of a record; other devices are never touched.
 * - A device whose workers have answered is continued with their links: its reads do not stall.
 * - A device whose workers are dead or silent begins with a failover (unserved-devices.ts).
 * - A device that cannot be continued is kept as a leftover device, so that `status` shows it and it can be detached.
 */
import { SYSFS_VIEW } from "../../kernel/device-view.ts";
import type { FoundLink } from "../../pool/links/found-link.ts";
import { isSameFile } from "../../source/file-identity.ts";
import type { SourceSpec } from "../../source/source-spec.ts";
import { close } from "../../sys/libc/files.ts";
import { isAlive, type ProcessIdentity } from "../../sys/process-identity.ts";
import { type DeviceRecord, imageOf } from "../records/record.ts";
import type { RecordStore } from "../records/record-store.ts";
import {
  type AdoptionContext,
  type AdoptionView,
  cannotContinue,
  keepUncontinued,
  serversOf,
} from "./adoption-context.ts";
import { LeftoverDevice } from "./leftover-device.ts";
import { releaseUnclaimed } from "./unclaimed-links.ts";
import { takeOverUnserved, type UnservedDevice } from "./unserved-devices.ts";

/** Returns notes about what was found, for the user whose command started the manager. */
export async function adoptDevices(records: RecordStore, context: AdoptionContext): Promise<string[]> {
  const adoption = new Adoption(records, context);
  await adoption.run();
  return adoption.notes;
}

/** The same for these records alone, after their workers have answered or were found to hang. */
export async function adoptRecords(
  store: RecordStore,
  records: readonly DeviceRecord[],
  context: AdoptionContext,
): Promise<void> {
  await new Adoption(store, context).take(records, false);
}

class Adoption {
  readonly notes: string[] = [];
  readonly #records: RecordStore;
  readonly #context: AdoptionContext;
  readonly #view: AdoptionView;
  readonly #unserved: UnservedDevice[] = [];
  /** Workers whose devices cannot get another worker. */
  readonly #needed: ProcessIdentity[] = [];
  /** Links whose device was not found among the records yet. */
  readonly #unclaimed: Set<FoundLink>;

  constructor(records: RecordStore, context: AdoptionContext) {
    this.#records = records;
    this.#context = context;
    this.#view = context.view ?? SYSFS_VIEW;
    this.#unclaimed = new Set(context.links);
  }

  async run(): Promise<void> {
    const { records, stale, unreadable } = this.#records.load();
    for (const path of unreadable) this.#note(`${path} is not a record of a known version: left alone`);
    for (const record of stale) await this.#drop(record, "was attached before the last boot");
    await this.take(records, unreadable.length > 0);
  }

  async take(records: readonly DeviceRecord[], hasUnreadable: boolean): Promise<void> {
    for (const record of records) {
      if (record.interface === "ioctl") await this.#takeIoctl(record);
      else await this.#takeNetlink(record);
    }
    for (const link of this.#unclaimed)
      releaseUnclaimed(link, hasUnreadable, this.#view, (message) => this.#note(message));
    const { awaitWorkers, silent } = this.#context;
    const context = {
      ...this.#context,
      silent: silent.filter((worker) => awaitWorkers?.isAwaited(worker) !== true),
    };
    await takeOverUnserved(this.#unserved, this.#needed, context, (message) => this.#note(message));
    awaitWorkers?.start(silent);
  }

  #note(message: string): void {
    this.notes.push(message);
    this.#context.log.warn(message);
  }

  async #drop({ image, identifier }: DeviceRecord, why: string): Promise<void> {
    this.#note(`${image.path} ${why}: its record is removed`);
    await this.#records.remove(identifier);
  }

  async #takeNetlink(record: DeviceRecord): Promise<void> {
    const index = indexOf(record, this.#view);
    if (index === undefined) return this.#drop(record, "is no longer attached");
    const links = this.#claimLinks(record);
    if (this.#isLeftToSilent(record, index, links)) return;
    if (links.length === 0) this.#unserved.push({ record, index });
    else {
      // A failure with one device must not keep the manager from the others.
      await this.#continueServed(record, index, links).catch((error: unknown) => {
        this.#note(cannotContinue(record, index, error));
        keepUncontinued(this.#context, record, index, links, error);
      });
    }
  }

  /** Whether the device waits for a worker that has not answered and may have the rest of its links. */
  #isLeftToSilent(record: DeviceRecord, index: number, links: readonly FoundLink[]): boolean {
    const { awaitWorkers, silent } = this.#context;
    if (awaitWorkers === undefined || links.length >= record.connections) return false;
    const servers = silent.filter(({ pid, startTime }) =>
      record.workers.some((worker) => worker.pid === pid && worker.startTime === startTime),
    );
    if (servers.length === 0) return false;
    this.#note(
      `nbd${index} (${record.image.path}) is served by worker ${servers[0]?.pid}, which does not answer yet`,
    );
    awaitWorkers.keep(record, index, links, servers);
    return true;
  }

  /** The links of a record's device. Those that serve another file than the record's image are closed. */
  #claimLinks({ identifier, image }: DeviceRecord): FoundLink[] {
    const links = this.#context.links.filter(({ device }) => device === identifier);
    for (const link of links) this.#unclaimed.delete(link);
    const wrong = links.filter(({ imageFd }) => !isOpen(image, imageFd));
    for (const link of wrong) {
      this.#note(`worker ${link.workerPid} serves ${image.path} from another file: its link is closed`);
      link.close();
    }
    return links.filter((link) => !wrong.includes(link));
  }

  /** The image is the one that the workers have open, even if another file is at its path by now. */
  async #continueServed(record: DeviceRecord, index: number, links: readonly FoundLink[]): Promise<void> {
    const [first, ...others] = links as [FoundLink, ...FoundLink[]];
    for (const { imageFd } of others) close(imageFd);
    const served = `${links.length} of ${record.connections} links served`;
    this.#note(
      `nbd${index} (${record.image.path}) was left by manager ${record.manager.pid}: ${served}, going on`,
    );
    await this.#context.adopt(record, imageOf(record, first.imageFd), index, links);
  }

  /** An ioctl device cannot be reconnected. While its client process lives it is shown and can be detached. */
  async #takeIoctl(record: DeviceRecord): Promise<void> {
    const links = this.#claimLinks(record);
    const { client, index, image } = record;
    if (
      client === null ||
      index === null ||
      !isAlive(client) ||
      this.#view.configuringThread(index) !== client.pid
    ) {
      await this.#drop(record, "is no longer attached");
      for (const link of links) link.close();
      return;
    }
    const servers = serversOf(record, links, this.#context);
    this.#note(
      `nbd${index} (${image.path}) was attached by ioctl by a manager that is dead: its worker serves on`,
    );
    this.#context.keep(
      new LeftoverDevice(
        record,
        index,
        imageOf(record, -1),
        { servers, why: "it is attached by ioctl, where no other worker can serve it" },
        this.#context.nbd,
        this.#context.view,
      ),
    );
    this.#needed.push(...servers);
    for (const link of links) link.leave();
  }
}

/** Whether a descriptor is of the record's image. A worker loads a module by its path, so that is not compared. */
const isOpen = (spec: SourceSpec, fd: number): boolean =>
  spec.type === "module" || isSameFile(fd, spec.identity);

/** The index of the record's device. All indexes are searched only where the record's own does not match. */
function indexOf(
  { index, identifier }: DeviceRecord,
  view: Pick<AdoptionView, "backendOf" | "findByBackend">,
): number | undefined {
  return index !== null && view.backendOf(index) === identifier ? index : view.findByBackend(identifier);
}
