/**
 * Keeps the leases of a process that serves images, and does what a lease break requires before the writer goes on:
 *
 *   break ─ the source copies and checks ─ links answer nothing new ─ peers read all pages that were sent by
 *   reference ─ the lease is let go ─ the writer goes on
 *
 * SIGIO reports a break. Node runs its handler on the event loop, to which the pump returns within its slice (20 ms),
 * or when the current read has ended. The writer waits for fs.lease-break-time (45 s; below 5 s no lease is used), so a
 * worker that is a little late delays the writer and corrupts nothing. A worker that is late by half of that time asks
 * the kernel before anything leaves (ReadLease.isHeld). A look every second makes up for lost signals.
 */

import type { Exactness } from "../source/exactness.ts";
import type { FileSource } from "../source/file-source.ts";
import { leaseBreakTimeMs, ReadLease } from "../source/read-lease.ts";
import { close } from "../sys/libc/files.ts";
import { unsentBytes } from "../sys/libc/sockets.ts";
import type { ServedLink } from "./served-link.ts";

const LOOK_MS = 1000;
/** Between two looks whether a peer has read everything. A kernel reads at once. */
const DRAIN_POLL_MS = 2;

/** One source and the links that it serves. */
export interface LeaseUser {
  readonly source: FileSource;
  links(): readonly ServedLink[];
  /** A field of the exactness has changed. */
  changed(exactness: Exactness): void;
  /** The lease was let go, and this process's duplicate of its description is closed. */
  letGo?(): void;
  /** When the lease was last seen held, by the loop's clock; 0 once nothing is sent under it any more. */
  seen?(atMs: number): void;
  /** Takes another lease. Set only where this process has the right to. */
  take?(): number | undefined;
  /** A peer that has not read everything so long after a break is cut off. Not set for kernels. */
  readonly patienceMs?: number;
}

export class LeaseKeeper {
  readonly #kept = new Set<KeptLease>();
  readonly #onSignal = (): void => {
    // One signal can stand for several breaks.
    for (const kept of this.#kept) kept.look();
  };
  readonly #timer: NodeJS.Timeout;

  /** To be made before this process can own a lease: without a handler the signal would kill it. */
  constructor() {
    process.on("SIGIO", this.#onSignal);
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
    process.off("SIGIO", this.#onSignal);
  }

  #tick(): void {
    if (this.#kept.size === 0) return;
    const breakTimeMs = leaseBreakTimeMs();
    for (const kept of this.#kept) kept.refresh(breakTimeMs);
  }
}

export class KeptLease {
  readonly #user: LeaseUser;
  readonly #onClose: () => void;
  #lease: ReadLease | undefined;
  /** There was a lease, so the file system is local and answers at once: the file may be looked at once a second. */
  #mayLook = false;
  #reported: Exactness | undefined;
  /** Links whose peers have to read everything before the lease is let go. */
  #draining: Set<ServedLink> | undefined;
  #brokeAtMs = 0;
  /** Sockets of links that were cut before their peers had read everything. */
  #leftovers: number[] = [];
  #poll: NodeJS.Timeout | undefined;

  constructor(user: LeaseUser, onClose: () => void) {
    this.#user = user;
    this.#onClose = onClose;
    user.source.onBroken = () => this.#break();
  }

  /** Takes over a description that has a lease on it. `isVouched`: see FileSource. */
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

  /** The descriptor of the lease, while it protects what is sent. */
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

  /** Reports the exactness if it has changed, or if `isNew`: to a manager that has just asked. */
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
   * Looks at lease and file, and takes another lease if there is none. A file that cannot be leased is looked at by its
   * readers only: a network file system that hangs must not hang all links of this process once a second.
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

  /** The links have ended, or another process serves them now. */
  close(): void {
    this.#onClose();
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

  /** May be called in the middle of a link's turn, so draining begins later. */
  #break(): void {
    if (this.#draining !== undefined || this.#lease === undefined) return;
    const links = this.#user.links();
    this.#draining = new Set(links);
    this.#brokeAtMs = performance.now();
    // Makes the source notice the break, if it has not: it copies from now on.
    void this.#user.source.isLeased;
    for (const link of links) link.holdBack();
    this.#poll = setTimeout(() => this.#drain(), 0);
    setImmediate(() => {
      if (this.#draining !== undefined) this.report();
    });
  }

  /** Lets links go on whose peers have read everything, and lets the lease go when all have. */
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

  /** Ends a link whose peer reads too slowly. The lease is kept until the peer has read or closed its socket. */
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
