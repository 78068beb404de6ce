/**
 * Looks after the leases of a process that serves images: what has to happen between a break and the writer's first
 * byte.
 *
 *   break ─ from here on the source copies and checks ─ links answer nothing new ─ all that was sent by reference has been
 *   read ─ the lease is let go ─ the writer goes on
 *
 * Of a break the process hears by SIGIO. Its handler is Node's, which runs on the event loop: the pump comes back
 * there within its slice (20 ms), or when the read that it is in has ended. The writer waits for fs.lease-break-time
 * (45 s, and never less than 5 s, or no lease is used), so a worker that is late by that costs the writer time and
 * nobody bytes. One that is later than half of it asks before anything leaves (ReadLease.isHeld). A lost signal is
 * made up for by a look every second.
 */

import type { Exactness } from "../source/exactness.ts";
import type { FileSource } from "../source/file-source.ts";
import { leaseBreakTimeMs, ReadLease } from "../source/read-lease.ts";
import { close, unsentBytes } from "../sys/libc.ts";
import type { ServedLink } from "./serve-loop.ts";

const LOOK_MS = 1000;
/** Between two looks whether a peer has read everything: a kernel does so at once. */
const DRAIN_POLL_MS = 2;

/** Links of one source, as the keeper sees them. */
export interface LeaseUser {
  readonly source: FileSource;
  links(): readonly ServedLink[];
  /** How exact answers are, what has changed in the file, or which time is its own: something of this is new. */
  changed(exactness: Exactness): void;
  /** The lease was let go, and our duplicate of its description is closed. */
  letGo?(): void;
  /** When it was last seen held, by the loop's clock; 0 once nothing is sent under it any more. */
  seen?(atMs: number): void;
  /** Another lease, where this process may take one itself. */
  take?(): number | undefined;
  /** A peer that has not read what it was sent so long after a break is cut off; not set: kernels are not. */
  readonly patienceMs?: number;
}

export class LeaseKeeper {
  readonly #kept = new Set<KeptLease>();
  readonly #hear = (): void => {
    // One signal may stand for several breaks.
    for (const kept of this.#kept) kept.look();
  };
  readonly #timer: NodeJS.Timeout;

  /** Before any lease may have this process as its owner: without a handler the signal would kill it. */
  constructor() {
    process.on("SIGIO", this.#hear);
    this.#timer = setInterval(() => this.#tick(), LOOK_MS).unref();
  }

  keep(user: LeaseUser): KeptLease {
    const kept = new KeptLease(user, () => this.#kept.delete(kept));
    this.#kept.add(kept);
    return kept;
  }

  close(): void {
    for (const kept of this.#kept) kept.close();
    clearInterval(this.#timer);
    process.off("SIGIO", this.#hear);
  }

  #tick(): void {
    if (this.#kept.size === 0) return;
    const breakTimeMs = leaseBreakTimeMs();
    for (const kept of this.#kept) kept.refresh(breakTimeMs);
  }
}

export class KeptLease {
  readonly #user: LeaseUser;
  readonly #forget: () => void;
  #lease: ReadLease | undefined;
  /** There was a lease: the file system is one that answers at once, and the file may be looked at without being read. */
  #mayLook = false;
  #reported: Exactness | undefined;
  /** Links that have to be read empty. */
  #draining: Set<ServedLink> | undefined;
  #brokeAtMs = 0;
  /** Sockets of links that were cut while their peers had not read everything. */
  #leftovers: number[] = [];
  #poll: NodeJS.Timeout | undefined;

  constructor(user: LeaseUser, forget: () => void) {
    this.#user = user;
    this.#forget = forget;
    user.source.onBroken = () => this.#break();
  }

  /** Takes a description over that has a lease on it. `isVouched`: see FileSource. */
  use(fd: number, isVouched: boolean): void {
    if (this.#lease !== undefined) {
      close(fd);
      return;
    }
    this.#lease = new ReadLease(fd);
    this.#mayLook = true;
    this.#user.source.useLease(this.#lease, isVouched);
    this.look();
    this.#tellSeen();
    this.report();
  }

  /** Whether a lease protects what is sent. */
  get fd(): number | undefined {
    return this.#user.source.isLeased ? this.#lease?.fd : undefined;
  }

  get exactness(): Exactness {
    const { source } = this.#user;
    return {
      exact: source.isLeased ? "lease" : "checked",
      change: (source.isLeased ? undefined : source.change) ?? null,
      mtimeNs: source.identity.mtimeNs,
    };
  }

  /** Tells how things are, if that is new. */
  report(isNew = false): void {
    const { exactness } = this;
    const { exact, change, mtimeNs } = exactness;
    const last = this.#reported;
    const isKnown = last?.exact === exact && last.change === change && last.mtimeNs === mtimeNs;
    if (isKnown && !isNew) return;
    this.#reported = exactness;
    this.#user.changed(exactness);
  }

  /** Asks the kernel whether the lease is still held. */
  look(): void {
    if (this.#lease !== undefined && !this.#lease.look()) this.#break();
  }

  /**
   * The same, and looks at the file, and takes another lease where there is none. A file that cannot be leased is
   * left to its readers: a network file system that hangs is to hang them alone, and not every link of this process
   * once a second.
   */
  refresh(breakTimeMs: number): void {
    this.#lease?.updateBreakTime(breakTimeMs);
    this.look();
    const { source, take } = this.#user;
    this.#mayLook ||= take !== undefined && source.canBeLeased;
    if (this.#mayLook) source.refresh();
    if (this.#lease === undefined && source.change === undefined) {
      const fd = take?.();
      if (fd !== undefined) this.use(fd, false);
    }
    if (this.#draining === undefined) this.#tellSeen();
    this.report();
  }

  /** The links are no more, or another process has them now. */
  close(): void {
    this.#forget();
    clearTimeout(this.#poll);
    this.#draining = undefined;
    this.#user.source.onBroken = undefined;
    this.#user.source.dropLease();
    for (const fd of this.#leftovers.splice(0)) close(fd);
    if (this.#lease !== undefined) close(this.#lease.fd);
    this.#lease = undefined;
  }

  #tellSeen(): void {
    if (this.#lease !== undefined && this.#user.source.isLeased) this.#user.seen?.(this.#lease.seenAtMs);
  }

  /** May be called in the middle of a link's turn: what it begins goes on later. */
  #break(): void {
    if (this.#draining !== undefined || this.#lease === undefined) return;
    const links = this.#user.links();
    this.#draining = new Set(links);
    this.#brokeAtMs = performance.now();
    // Notices it, if it has not, and copies from now on.
    void this.#user.source.isLeased;
    for (const link of links) link.holdBack();
    this.#poll = setTimeout(() => this.#drain(), 0);
    setImmediate(() => {
      if (this.#draining !== undefined) this.report();
    });
  }

  /** Lets links go on that have been read empty, and the lease go when all have. */
  #drain(): void {
    const draining = this.#draining;
    if (draining === undefined) return;
    const { patienceMs } = this.#user;
    const isOver = patienceMs !== undefined && performance.now() - this.#brokeAtMs > patienceMs;
    for (const link of [...draining]) {
      if (link.sharesPages && !isOver) continue;
      draining.delete(link);
      if (link.sharesPages) this.#cut(link);
      else link.goOn();
    }
    this.#leftovers = this.#leftovers.filter((fd) => {
      if (unsentBytes(fd) > 0) return true;
      close(fd);
      return false;
    });
    if (draining.size + this.#leftovers.length > 0) {
      this.#poll = setTimeout(() => this.#drain(), DRAIN_POLL_MS);
      return;
    }
    this.#letGo();
  }

  /** Its peer still has what is in its socket: the lease stays until that is read, thrown away, or the kernel takes the lease. */
  #cut(link: ServedLink): void {
    this.#leftovers.push(link.keepSocket());
    link.close();
  }

  #letGo(): void {
    this.#draining = undefined;
    this.#user.source.dropLease();
    if (this.#lease !== undefined) close(this.#lease.fd);
    this.#lease = undefined;
    this.#user.seen?.(0);
    this.#user.letGo?.();
  }
}
