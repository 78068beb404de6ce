/**
 * A worker: any number of links in one process, given to it over the control channel.
 *
 * It opens nothing by path and decides nothing: descriptors arrive with each link, ends are reported. When the
 * control channel ends (its manager is gone) it goes on serving what it has, and leaves when no link is left. The
 * next manager connects to the worker's own socket, and gets every link told, with duplicates of its descriptors.
 */
import { JOURNAL_BYTES, Journal } from "../journal/journal.ts";
import { type KeptLease, LeaseKeeper } from "../serving/lease-keeper.ts";
import { Pump } from "../serving/pump.ts";
import { ServedLink } from "../serving/serve-loop.ts";
import { warmUp, warmUpLater } from "../serving/warm-up.ts";
import { FileSource } from "../source/file-source.ts";
import { ModuleSource, openCustomSource } from "../source/module-source.ts";
import { padToBlocks } from "../source/padded-source.ts";
import type { Source } from "../source/source.ts";
import { openSource } from "../source/source-spec.ts";
import { EPOLLIN } from "../sys/epoll.ts";
import { close, mapShared, peerCredentials, unmapShared } from "../sys/libc.ts";
import { Acceptor } from "../sys/sockets/acceptor.ts";
import { Channel } from "../sys/sockets/channel.ts";
import type { LinkEnd } from "../worker-protocol/link-end.ts";
import {
  type FromWorker,
  HEAD_PIECE_BYTES,
  LINK_FDS,
  linkFds,
  type ServedLinkDescription,
  type ToWorker,
} from "../worker-protocol/messages.ts";

type ServeMessage = Extract<ToWorker, { type: "serve" }>;

interface Held {
  description: ServedLinkDescription;
  /** In the order of LINK_FDS, and no lease's. The journal's and the kernel end are only kept; the others belong to link and source. */
  readonly fds: readonly number[];
  readonly link: ServedLink;
  readonly source: Source;
  /** Where the image is a file. */
  readonly lease: KeptLease | undefined;
  readonly memory: ArrayBuffer;
  readonly errors: ReadErrorLog;
}

/** What a worker is born with. */
export interface WorkerStart {
  /** The control channel. */
  readonly controlFd: number;
  /** A listening socket for later managers… */
  readonly reunionFd: number;
  /** …which must be of this user, or root. */
  readonly managerUid: number;
  /** An attach waits for it: it is ready first, and warm a moment later. */
  readonly isAwaited?: boolean;
}

export class Worker {
  readonly #pump = new Pump();
  /** Before the first message: a manager that hears that we are ready may make us the owner of a lease. */
  readonly #leases = new LeaseKeeper();
  readonly #links = new Map<number, Held>();
  /** Links whose sources are still being opened. */
  readonly #opening = new Map<number, readonly number[]>();
  readonly #leave: () => void;
  readonly #managerUid: number;
  #channel: Channel<ToWorker, FromWorker>;
  #stopping = false;
  /** The manager gives leases, and has asked to be told of them. */
  #reports = false;
  /** Leases of links that were let go before this manager asked: it may hold duplicates of them. */
  readonly #unsaid = new Set<number>();

  /** Takes the descriptors over. Calls `leave` when there is nothing left to do. */
  constructor({ controlFd, reunionFd, managerUid, isAwaited = false }: WorkerStart, leave: () => void) {
    this.#leave = leave;
    this.#managerUid = managerUid;
    this.#channel = this.#open(controlFd);
    const acceptor = new Acceptor(reunionFd, {
      connection: (fd) => this.#reunite(fd),
      trouble: (message) => process.stderr.write(`${JSON.stringify({ level: "error", message })}\n`),
    });
    acceptor.unref();
    this.#pump.yieldTo(reunionFd, EPOLLIN);
    if (isAwaited) warmUpLater(this.#pump);
    else warmUp(this.#pump);
    this.#tell({ type: "ready", leases: true });
  }

  #open(fd: number): Channel<ToWorker, FromWorker> {
    const channel: Channel<ToWorker, FromWorker> = new Channel(fd, {
      message: (message, fds) => this.#obey(message, fds),
      end: () => {
        if (channel === this.#channel) this.#stopWhenIdle();
      },
    });
    this.#pump.yieldTo(fd, EPOLLIN);
    return channel;
  }

  /** A manager after the one that started us: it has the run directory, or it could not have come in. */
  #reunite(fd: number): void {
    const { uid } = peerCredentials(fd);
    if (uid !== 0 && uid !== this.#managerUid) {
      close(fd);
      return;
    }
    this.#channel.close();
    this.#stopping = false;
    // It would begin to serve a link of which nobody has heard: the new manager is to give it anew.
    for (const link of [...this.#opening.keys()]) this.#dropOpening(link);
    this.#channel = this.#open(fd);
    this.#tell({ type: "reunion", pid: process.pid, links: this.#links.size });
    this.#reports = false;
    this.#unsaid.clear();
    for (const { description, fds, lease } of this.#links.values()) {
      // A lease that is about to be let go is ours alone to let go.
      const [leaseState, leaseFds] =
        lease?.fd === undefined ? (["none", []] as const) : (["vouched", [lease.fd]] as const);
      this.#channel
        .send({ type: "held", ...description, lease: leaseState }, [...fds, ...leaseFds])
        .catch(() => {});
    }
    this.#tell({ type: "ready", leases: true });
  }

  #obey(message: ToWorker, fds: readonly number[]): void {
    if (message.type === "serve") return this.#serve(message, fds);
    if (message.type === "lease" && fds.length === 1) return this.#useLease(message.link, fds[0] as number);
    for (const fd of fds) close(fd);
    if (message.type === "close") this.#close(message.link);
    else if (message.type === "release") this.#release(message.link);
    else if (message.type === "confirm") this.#confirm(message.link);
    else if (message.type === "ping") this.#tell({ type: "pong" });
    else if (message.type === "inspect") void this.#inspect(message);
    else if (message.type === "report") this.#report();
    else if (message.type === "stop") this.#stopWhenIdle();
  }

  #report(): void {
    this.#reports = true;
    for (const link of this.#unsaid) this.#tell({ type: "lease-over", link });
    this.#unsaid.clear();
    for (const { lease } of this.#links.values()) lease?.report(true);
  }

  #useLease(link: number, fd: number): void {
    const lease = this.#links.get(link)?.lease;
    if (lease === undefined) close(fd);
    else lease.use(fd, false);
  }

  #close(link: number): void {
    if (this.#dropOpening(link)) this.#refuse(link, [], new Error("it was given up"));
    this.#links.get(link)?.link.close();
  }

  /** Lets go of a link whose source is still opening, and with it of its socket, at once. */
  #dropOpening(link: number): boolean {
    for (const fd of this.#opening.get(link) ?? []) close(fd);
    return this.#opening.delete(link);
  }

  #serve(message: ServeMessage, fds: readonly number[]): void {
    const { link } = message;
    let source: Source | Promise<Source>;
    try {
      if (fds.length !== linkFds(message))
        throw new Error(`${fds.length} descriptors came instead of ${linkFds(message)}`);
      source = openSource(message.source, fds[1] as number);
    } catch (error) {
      return this.#refuse(link, fds, error);
    }
    if (!(source instanceof Promise)) return this.#begin(message, fds, source);
    const held = withoutImage(fds);
    this.#opening.set(link, held);
    // A source may take its time: the link may have been given up meanwhile, and given anew.
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

  #begin(message: ServeMessage, fds: readonly number[], source: Source): void {
    const { link } = message;
    try {
      this.#takeLink(message, fds, source);
    } catch (error) {
      // No memory, no descriptor, no room in epoll: another worker may have it.
      source.close();
      return this.#refuse(link, withoutImage(fds), error);
    }
    this.#tell({ type: "serving", link });
    this.#links.get(link)?.lease?.report();
    this.#links.get(link)?.link.resume();
  }

  #refuse(link: number, fds: readonly number[], error: unknown): void {
    this.#opening.delete(link);
    for (const fd of fds) close(fd);
    this.#tell({ type: "refused", link, message: error instanceof Error ? error.message : String(error) });
    if (this.#stopping) this.#stopWhenIdle();
  }

  async #inspect({ path, options, headBytes }: Extract<ToWorker, { type: "inspect" }>): Promise<void> {
    try {
      const inner = await openCustomSource(path, options);
      const { sizeBytes } = inner;
      const head = new Uint8Array(Math.min(headBytes, sizeBytes));
      await new ModuleSource(inner, path, -1).read(head, 0);
      const identity = inner.identity ?? null;
      for (let at = 0; at < head.length; at += HEAD_PIECE_BYTES) {
        const piece = Buffer.from(head.subarray(at, at + HEAD_PIECE_BYTES)).toString("base64");
        this.#tell({ type: "head", piece });
      }
      this.#tell({ type: "inspected", sizeBytes, identity });
    } catch (error) {
      this.#tell({
        type: "uninspectable",
        message: error instanceof Error ? error.message : String(error),
      });
    }
  }

  #takeLink(message: ServeMessage, fds: readonly number[], opened: Source): void {
    const [socketFd, , journalFd, readFd, writeFd] = fds as [number, number, number, number, number, number];
    const { type: _, lease: leaseState, ...description } = message;
    const { link } = description;
    let memory: ArrayBuffer | undefined;
    try {
      memory = mapShared(journalFd, JOURNAL_BYTES);
      const source = padToBlocks(opened, message.blockSizeBytes);
      const errors = new ReadErrorLog((text, count) =>
        this.#tell({ type: "read-error", link, message: text, count }),
      );
      const kept = new Journal(memory);
      const journal = { journal: kept, pipe: { readFd, writeFd }, counted: message.counted };
      const served = new ServedLink(
        socketFd,
        this.#pump,
        { source, copyOnly: message.copyOnly, journal },
        {
          firstRequest: () => this.#tell({ type: "first-request", link }),
          readError: (error) => errors.add(error),
          end: (end) => this.#ended(link, end),
        },
      );
      const lease =
        opened instanceof FileSource && opened.kind === "file"
          ? this.#keepLease(link, opened, served, kept)
          : undefined;
      const linkOnly = fds.slice(0, LINK_FDS);
      this.#links.set(link, { description, fds: linkOnly, link: served, source, lease, memory, errors });
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
        if (this.#reports) this.#tell({ type: "exactness", link, ...exactness });
      },
      letGo: () => {
        if (this.#reports) this.#tell({ type: "lease-over", link });
        else this.#unsaid.add(link);
      },
      seen: (atMs) => {
        journal.leaseSeenAtMs = atMs;
      },
    });
  }

  #release(link: number): void {
    const held = this.#links.get(link);
    if (held === undefined) return this.#tell({ type: "refused", link, message: "it has ended" });
    held.link.release();
    this.#letGo(link, held);
    this.#tell({ type: "released", link });
  }

  #confirm(link: number): void {
    const held = this.#links.get(link);
    if (held !== undefined) held.description = { ...held.description, confirmed: true };
  }

  #ended(link: number, end: LinkEnd): void {
    const held = this.#links.get(link);
    if (held === undefined) return;
    const { requests, readBytes, readErrors } = held.link.counters;
    this.#letGo(link, held);
    this.#tell({ type: "ended", link, end, counters: { requests, readBytes, readErrors } });
    if (this.#stopping) this.#stopWhenIdle();
  }

  #letGo(link: number, { errors, source, lease, memory, fds }: Held): void {
    this.#links.delete(link);
    lease?.close();
    errors.close();
    source.close();
    const [, , journalFd, , , kernelFd] = fds as [number, number, number, number, number, number];
    close(journalFd);
    close(kernelFd);
    // The loop may still be on the stack; it looks at its journal no more, but that is not for us to rely on.
    setImmediate(() => unmapShared(memory));
  }

  #stopWhenIdle(): void {
    this.#stopping = true;
    if (this.#links.size === 0 && this.#opening.size === 0) setImmediate(this.#leave);
  }

  /** A manager that is gone needs no telling; its channel's end has been noticed by itself. */
  #tell(message: FromWorker): void {
    if (!this.#channel.isOpen) {
      if (message.type === "read-error")
        process.stderr.write(`${JSON.stringify({ level: "error", ...message })}\n`);
      return;
    }
    this.#channel.send(message).catch(() => {});
  }
}

/** Those of a link that its source has not closed with itself. */
function withoutImage(fds: readonly number[]): number[] {
  return fds.filter((_, at) => at !== 1);
}

/** How often the same link repeats itself in the log. */
const REPEAT_MS = 5000;

/** Read errors of one link: the first at once, then one line per interval with the number of them. */
class ReadErrorLog {
  readonly #write: (message: string, count: number) => void;
  #count = 0;
  #last = "";
  #timer: NodeJS.Timeout | undefined;

  constructor(write: (message: string, count: number) => void) {
    this.#write = write;
  }

  add(error: Error): void {
    if (this.#timer === undefined) {
      this.#write(error.message, 1);
      this.#timer = setTimeout(() => this.#flush(), REPEAT_MS).unref();
      return;
    }
    this.#count += 1;
    this.#last = error.message;
  }

  close(): void {
    clearTimeout(this.#timer);
    if (this.#count > 0) this.#write(this.#last, this.#count);
    this.#count = 0;
  }

  #flush(): void {
    this.#timer = undefined;
    if (this.#count > 0) this.#write(this.#last, this.#count);
    this.#count = 0;
  }
}
