/**
 * The links of a worker: added with their descriptors, served, and ended, released or refused.
 *
 * Driven by Worker with the manager's messages; reports to the manager through `tell`. Nothing is opened by path: every
 * descriptor arrives with its link.
 */
import { Journal } from "../journal/journal.ts";
import { JOURNAL_BYTES } from "../journal/layout.ts";
import { takeOffer } from "../journal/offer.ts";
import { type KeptLease, LeaseKeeper } from "../serving/lease-keeper.ts";
import type { Pump } from "../serving/pump.ts";
import { ServedLink } from "../serving/served-link.ts";
import { FileSource } from "../source/file-source.ts";
import { padToBlocks } from "../source/padded-source.ts";
import type { Source } from "../source/source.ts";
import { openSource } from "../source/source-spec.ts";
import { close } from "../sys/libc/files.ts";
import { mapShared, unmapShared } from "../sys/libc/memory.ts";
import type { LinkEnd } from "../worker-protocol/link-end.ts";
import {
  type FromWorker,
  LINK_FDS,
  linkFds,
  type ServedLinkDescription,
  type ToWorker,
} from "../worker-protocol/messages.ts";
import { ReadErrorLog } from "./read-error-log.ts";

type ServeMessage = Extract<ToWorker, { type: "serve" }>;
type HeldMessage = Extract<FromWorker, { type: "held" }>;

/** A link that is served. */
interface LinkRecord {
  description: ServedLinkDescription;
  /**
   * In the order of LINK_FDS, without the lease's. The table closes the journal's and the kernel end; the others
   * belong to link and source.
   */
  readonly fds: readonly number[];
  readonly link: ServedLink;
  readonly source: Source;
  /** If the image is a file. */
  readonly lease: KeptLease | undefined;
  readonly memory: ArrayBuffer;
  readonly errors: ReadErrorLog;
}

export interface LinkTableEvents {
  tell(message: FromWorker): void;
  /** A link has ended or was refused. */
  removed(): void;
}

export class LinkTable {
  readonly #pump: Pump;
  readonly #events: LinkTableEvents;
  readonly #leases = new LeaseKeeper();
  readonly #links = new Map<number, LinkRecord>();
  /** Links whose sources are being opened, with their descriptors. */
  readonly #opening = new Map<number, readonly number[]>();
  /** The manager gives leases, and has asked for reports about them. */
  #reportsLeases = false;
  /** Links whose lease was let go before this manager asked: it may hold duplicates of them. */
  readonly #unreported = new Set<number>();

  constructor(pump: Pump, events: LinkTableEvents) {
    this.#pump = pump;
    this.#events = events;
  }

  get size(): number {
    return this.#links.size;
  }

  get isEmpty(): boolean {
    return this.#links.size === 0 && this.#opening.size === 0;
  }

  /** Serves a link once its source is open. */
  serve(message: ServeMessage, fds: readonly number[]): void {
    const { link, offer } = message;
    let source: Source | Promise<Source>;
    try {
      if (fds.length !== linkFds(message))
        throw new Error(`${fds.length} descriptors came instead of ${linkFds(message)}`);
      if (offer !== undefined && !takesOffer(fds[2] as number, offer)) {
        // Another worker has the link by now. An answer would be taken for one to a later offer.
        for (const fd of fds) close(fd);
        return this.#events.removed();
      }
      source = openSource(message.source, fds[1] as number);
    } catch (error) {
      return this.#refuse(link, fds, error);
    }
    if (!(source instanceof Promise)) return this.#begin(message, fds, source);
    const held = withoutImage(fds);
    this.#opening.set(link, held);
    // The link may be given up while its source is opened, and then given to this worker again.
    const isStillWanted = (): boolean => this.#opening.get(link) === held;
    void source.then(
      (opened) => {
        if (isStillWanted()) {
          this.#opening.delete(link);
          this.#begin(message, fds, opened);
        } else opened.close();
      },
      (error: unknown) => {
        if (isStillWanted()) this.#refuse(link, fds, error);
        else close(fds[1] as number);
      },
    );
  }

  /** Closes a link's socket without answering what is left. */
  close(link: number): void {
    if (this.#dropOpening(link)) this.#refuse(link, [], new Error("it was given up"));
    this.#links.get(link)?.link.close();
  }

  /** Stops serving a link that another worker goes on with. */
  release(link: number): void {
    const record = this.#links.get(link);
    if (record === undefined) return this.#events.tell({ type: "refused", link, message: "it has ended" });
    record.link.release();
    this.#remove(link, record);
    this.#events.tell({ type: "released", link });
  }

  /** Notes that the kernel has taken the link's socket. */
  confirm(link: number): void {
    const record = this.#links.get(link);
    if (record !== undefined) record.description = { ...record.description, confirmed: true };
  }

  useLease(link: number, fd: number): void {
    const lease = this.#links.get(link)?.lease;
    if (lease === undefined) close(fd);
    else lease.use(fd, false);
  }

  /** Reports the exactness of each link, now and whenever it changes. */
  reportLeases(): void {
    this.#reportsLeases = true;
    for (const link of this.#unreported) this.#events.tell({ type: "lease-over", link });
    this.#unreported.clear();
    for (const { lease } of this.#links.values()) lease?.report(true);
  }

  /** Prepares for a manager that has just connected: it gives links whose sources are being opened anew. */
  startOver(): void {
    for (const link of [...this.#opening.keys()]) this.#dropOpening(link);
    this.#reportsLeases = false;
    this.#unreported.clear();
  }

  /** Calls `tell` with the description and the descriptors of each link. */
  forEachHeld(tell: (message: HeldMessage, fds: readonly number[]) => void): void {
    for (const { description, fds, lease } of this.#links.values()) {
      // A lease that is about to be let go is not handed on: this worker lets it go.
      const [leaseState, leaseFds] =
        lease?.fd === undefined ? (["none", []] as const) : (["vouched", [lease.fd]] as const);
      tell({ type: "held", ...description, lease: leaseState }, [...fds, ...leaseFds]);
    }
  }

  #begin(message: ServeMessage, fds: readonly number[], source: Source): void {
    const { link } = message;
    try {
      this.#add(message, fds, source);
    } catch (error) {
      // No memory, no descriptor, no room in epoll: another worker may be able to serve it.
      source.close();
      return this.#refuse(link, withoutImage(fds), error);
    }
    this.#events.tell({ type: "serving", link });
    this.#links.get(link)?.lease?.report();
    this.#links.get(link)?.link.resume();
  }

  #add(message: ServeMessage, fds: readonly number[], opened: Source): void {
    const [socketFd, , journalFd, readFd, writeFd] = fds as [number, number, number, number, number, number];
    const { type: _, lease: leaseState, offer: __, ...description } = message;
    const { link } = description;
    let memory: ArrayBuffer | undefined;
    try {
      memory = mapShared(journalFd, JOURNAL_BYTES);
      const source = padToBlocks(opened, message.blockSizeBytes);
      const errors = new ReadErrorLog((text, count) =>
        this.#events.tell({ type: "read-error", link, message: text, count }),
      );
      const journal = new Journal(memory);
      const served = new ServedLink(
        socketFd,
        this.#pump,
        {
          source,
          copyOnly: message.copyOnly,
          journal: { journal, pipe: { readFd, writeFd }, counted: message.counted },
        },
        {
          firstRequest: () => this.#events.tell({ type: "first-request", link }),
          readError: (error) => errors.add(error),
          end: (end) => this.#ended(link, end),
        },
      );
      const lease =
        opened instanceof FileSource && opened.kind === "file"
          ? this.#keepLease(link, opened, served, journal)
          : undefined;
      const ownFds = fds.slice(0, LINK_FDS);
      this.#links.set(link, { description, fds: ownFds, link: served, source, lease, memory, errors });
      const leaseFd = fds[LINK_FDS];
      if (leaseFd !== undefined && lease !== undefined) lease.use(leaseFd, leaseState === "vouched");
      else if (leaseFd !== undefined) close(leaseFd);
    } catch (error) {
      if (memory !== undefined) unmapShared(memory);
      throw error;
    }
  }

  #keepLease(link: number, source: FileSource, served: ServedLink, journal: Journal): KeptLease {
    return this.#leases.keep({
      source,
      links: () => [served],
      changed: (exactness) => {
        if (this.#reportsLeases) this.#events.tell({ type: "exactness", link, ...exactness });
      },
      letGo: () => {
        if (this.#reportsLeases) this.#events.tell({ type: "lease-over", link });
        else this.#unreported.add(link);
      },
      seen: (atMs) => {
        journal.leaseSeenAtMs = atMs;
      },
    });
  }

  #refuse(link: number, fds: readonly number[], error: unknown): void {
    this.#opening.delete(link);
    for (const fd of fds) close(fd);
    const message = error instanceof Error ? error.message : String(error);
    this.#events.tell({ type: "refused", link, message });
    this.#events.removed();
  }

  /** Gives up a link whose source is being opened, and closes its socket at once. */
  #dropOpening(link: number): boolean {
    for (const fd of this.#opening.get(link) ?? []) close(fd);
    return this.#opening.delete(link);
  }

  #ended(link: number, end: LinkEnd): void {
    const record = this.#links.get(link);
    if (record === undefined) return;
    const { requests, readBytes, readErrors } = record.link.counters;
    this.#remove(link, record);
    this.#events.tell({ type: "ended", link, end, counters: { requests, readBytes, readErrors } });
    this.#events.removed();
  }

  #remove(link: number, { errors, source, lease, memory, fds }: LinkRecord): void {
    this.#links.delete(link);
    lease?.close();
    errors.close();
    source.close();
    const [, , journalFd, , , kernelFd] = fds as [number, number, number, number, number, number];
    close(journalFd);
    close(kernelFd);
    // The loop may still be on the stack. It does not use the journal any more, but this must not depend on that.
    setImmediate(() => unmapShared(memory));
  }
}

function takesOffer(journalFd: number, offer: number): boolean {
  const memory = mapShared(journalFd, JOURNAL_BYTES);
  try {
    return takeOffer(memory, offer);
  } finally {
    unmapShared(memory);
  }
}

/** The descriptors of a link without that of the image, which its source closes. */
function withoutImage(fds: readonly number[]): number[] {
  return fds.filter((_, at) => at !== 1);
}
