/**
 * Workers of a former manager that do not answer at once, and the devices that wait for them.
 *
 * Such a worker may be inside a read that takes its time, and serves its devices when it is done. It is waited for as
 * long as the hang watch of the former manager would have waited, which the records say, while everything else goes
 * on. When it answers, its devices are continued with its links. When it does not, it hangs: it is killed, and its
 * devices begin with a failover.
 */
import type { FoundLink } from "../../pool/links/found-link.ts";
import { DEFAULT_PATIENCE_MS } from "../../pool/policy/hang-watch.ts";
import { awaitWorker, type ReconnectedWorker } from "../../pool/reattach.ts";
import type { ProcessIdentity } from "../../sys/process-identity.ts";
import { formatSeconds } from "../../text/durations.ts";
import { type DeviceRecord, imageOf } from "../records/record.ts";
import type { RecordStore } from "../records/record-store.ts";
import { adoptRecords } from "./adoption.ts";
import type { AdoptionContext } from "./adoption-context.ts";
import { LeftoverDevice } from "./leftover-device.ts";

/** A device whose links a silent worker may have. */
interface AwaitingDevice {
  readonly record: DeviceRecord;
  readonly device: LeftoverDevice;
  /** Links of workers that have answered, not opened yet. */
  readonly links: FoundLink[];
  /** Workers that have not. */
  readonly silent: Set<number>;
}

export interface SilentWorkersContext {
  /** The directories of the workers' sockets and of the journals. */
  readonly workers: string;
  readonly journals: string;
  readonly records: RecordStore;
  /** Takes an answering worker into the pool, and returns its links. */
  readonly adoptWorker: (worker: ReconnectedWorker) => FoundLink[];
  /** Gives a device up that was kept until now. False if it has ended meanwhile. */
  readonly release: (device: LeftoverDevice) => boolean;
  /** What adoption gets for the devices that are continued. */
  readonly adoption: Omit<AdoptionContext, "links" | "reattachedPids" | "silent" | "awaitWorkers">;
}

export class SilentWorkers {
  readonly #context: SilentWorkersContext;
  readonly #waiting = new Set<AwaitingDevice>();
  readonly #stop = new AbortController();
  readonly #answered: number[] = [];
  readonly #killed: ProcessIdentity[] = [];

  constructor(context: SilentWorkersContext) {
    this.#context = context;
  }

  /** Keeps a device until these workers have answered, or hang. */
  keep(
    record: DeviceRecord,
    index: number,
    links: readonly FoundLink[],
    silent: readonly ProcessIdentity[],
  ): void {
    const { adoption } = this.#context;
    const why = "it is inside a read, and the device is continued when it answers";
    const device = new LeftoverDevice(
      record,
      index,
      imageOf(record, -1),
      { servers: silent, why },
      adoption.nbd,
      adoption.view,
    );
    adoption.keep(device);
    this.#waiting.add({ record, device, links: [...links], silent: new Set(silent.map(({ pid }) => pid)) });
  }

  /** Whether a device waits for this worker. */
  isAwaited({ pid }: ProcessIdentity): boolean {
    return [...this.#waiting].some(({ silent }) => silent.has(pid));
  }

  /** Waits for each of the workers on its own, in the background. */
  start(workers: readonly ProcessIdentity[]): void {
    for (const worker of workers.filter((one) => this.isAwaited(one)))
      void this.#settle(worker).catch((error: unknown) => this.#context.adoption.log.error(String(error)));
  }

  /** This manager leaves: the next one waits anew. */
  end(): void {
    this.#stop.abort();
    for (const { links } of this.#waiting) for (const link of links) link.leave();
    this.#waiting.clear();
  }

  async #settle(worker: ProcessIdentity): Promise<void> {
    const { workers, journals, records, adoptWorker, adoption } = this.#context;
    const served = [...this.#waiting].filter(({ silent }) => silent.has(worker.pid));
    const patienceMs = Math.max(DEFAULT_PATIENCE_MS, ...served.map(({ record }) => record.hangTimeoutMs));
    const found = await awaitWorker(workers, journals, worker, patienceMs, this.#stop.signal);
    if (this.#stop.signal.aborted) return;
    if (found === undefined) {
      const patience = formatSeconds(patienceMs);
      adoption.log.warn(
        `worker ${worker.pid} of a former manager has ended, or not answered for ${patience}`,
      );
      this.#killed.push(worker);
    } else this.#answered.push(worker.pid);
    const links = found === undefined ? [] : adoptWorker(found);
    for (const one of this.#waiting) {
      one.silent.delete(worker.pid);
      one.links.push(...links.filter(({ device }) => device === one.record.identifier));
    }
    const isDone = ({ record, links, silent }: AwaitingDevice): boolean =>
      silent.size === 0 || links.length >= record.connections;
    const done = [...this.#waiting].filter(isDone);
    for (const one of done) this.#waiting.delete(one);
    const left = done.filter(({ device }) => this.#context.release(device));
    const known = [...done, ...this.#waiting].map(({ record }) => record.identifier);
    const strays = links.filter(({ device }) => !known.includes(device));
    await adoptRecords(
      records,
      left.map(({ record }) => record),
      {
        ...adoption,
        links: [...done.flatMap((one) => one.links), ...strays],
        reattachedPids: this.#answered,
        silent: this.#killed,
      },
    );
  }
}
