/**
 * The manager's part of a link's read lease: it takes it, keeps a duplicate of its description, and names the worker
 * that hears of a break.
 *
 * Workers may not take leases (no CAP_LEASE, another user). They let go by closing; a lease is let go when its last
 * duplicate is closed. Ours keeps it while a link has no worker: what a dead one sent by reference is still in pipe
 * and socket.
 *
 * Every instant, for whoever dies:
 * - the manager while it takes one: the description is closed with it, or the message is in the worker's socket already, and the worker has it;
 * - a worker with a break pending: the lease goes on pending for the rest of lease-break-time, the next worker gets the same description,
 *   is told by F_GETLEASE, and begins with letting go. A signal between two owners is lost, and that look makes up for it;
 * - the manager before it has heard `lease-over`: its duplicate is closed with it;
 * - both at once: the socket dies as well. Replies that the kernel has not read by then are unprotected for the moment that it needs.
 */

import type { Exactness } from "../../source/exactness.ts";
import { type FileIdentity, FileStat } from "../../source/file-identity.ts";
import { canBeLeased, leaseBreakTimeMs, takeReadLease } from "../../source/read-lease.ts";
import type { Image } from "../../supervisor/ports.ts";
import { close, hasReadLease, setSignalOwner } from "../../sys/libc.ts";
import { loopClock } from "../../sys/loop-clock.ts";
import type { ServedLinkDescription } from "../../worker-protocol/messages.ts";

/** What is sent by reference has to leave while this much of the lease's time is left. */
const MARGIN_MS = 1000;
/** Between two attempts to get a lease again: what is in the way may be so for ever. */
const FIRST_RETRY_MS = 200;
const MAX_RETRY_MS = 10_000;

/** Asked once for each: a file system that hangs is not to hang the manager. Nothing else here touches an image that cannot be leased. */
const leasable = new WeakMap<Image, boolean>();

function isLeasable(image: Image): boolean {
  const { spec, fd } = image;
  const known =
    leasable.get(image) ?? (spec.type === "file" && spec.identity.kind === "file" && canBeLeased(fd));
  leasable.set(image, known);
  return known;
}

export class LinkLease {
  readonly #image: Image;
  #fd: number | undefined;
  #isVouched = false;
  #exactness: Exactness | undefined;
  #retryMs = FIRST_RETRY_MS;
  #retryAtMs = 0;

  /** Takes the description over that a former manager's worker has, where it has one. */
  constructor(image: Image, fd: number | undefined) {
    this.#image = image;
    this.#fd = fd;
    this.#isVouched = fd !== undefined;
  }

  get fd(): number | undefined {
    return this.#fd;
  }

  get state(): NonNullable<ServedLinkDescription["lease"]> {
    if (this.#fd === undefined) return "none";
    return this.#isVouched ? "vouched" : "fresh";
  }

  /** As the link's worker has told; undefined where none has. */
  get exactness(): Exactness | undefined {
    return this.#exactness;
  }

  /** This worker is to serve the link next. One that takes no leases has no handler for their signal: it gets none. */
  prepareFor(workerPid: number, takesLeases: boolean): void {
    if (!takesLeases) return this.drop();
    if (this.#fd === undefined) this.#take(workerPid);
    // It has just died: what it would have been told, the next one asks.
    else setSignalOwner(this.#fd, workerPid);
  }

  /** Tries to get one again for the link's worker. Returns the description to be sent, where there was none. */
  renewFor(workerPid: number): number | undefined {
    const nowMs = performance.now();
    if (this.#fd !== undefined || nowMs < this.#retryAtMs) return undefined;
    this.#retryAtMs = nowMs + this.#retryMs;
    this.#retryMs = Math.min(this.#retryMs * 2, MAX_RETRY_MS);
    if (this.#isUnchanged) this.#take(workerPid);
    return this.#fd;
  }

  /** What the worker says. Returns whether the time that counts as the image's is another now. */
  note(exactness: Exactness): boolean {
    this.#exactness = exactness;
    if (exactness.exact === "lease" && this.#fd !== undefined) this.#isVouched = true;
    const { spec } = this.#image;
    if (spec.type !== "file" || spec.identity.mtimeNs === exactness.mtimeNs || !isLeasable(this.#image))
      return false;
    // A worker has fewer rights than we have, and is believed only what is so.
    const found = this.#found;
    if (found?.mtimeNs !== exactness.mtimeNs) return false;
    const { mtimeNs, changedNs } = found;
    this.#image.spec = { ...spec, identity: { ...spec.identity, mtimeNs, changedNs } };
    return true;
  }

  /**
   * Whether what was sent by reference under it, seen held last at `seenAtMs` (of the loop's clock; 0: nothing was),
   * cannot have changed until now.
   */
  protects(seenAtMs: number): boolean {
    if (seenAtMs === 0 || (this.#fd !== undefined && hasReadLease(this.#fd))) return true;
    return this.#fd !== undefined && loopClock.read() < seenAtMs + leaseBreakTimeMs() - MARGIN_MS;
  }

  /** Lets go of it: so does the worker, or has done. */
  drop(): void {
    if (this.#fd !== undefined) close(this.#fd);
    this.#fd = undefined;
    this.#isVouched = false;
    this.#retryMs = FIRST_RETRY_MS;
  }

  #take(workerPid: number): void {
    if (isLeasable(this.#image)) this.#fd = takeReadLease(this.#image.fd, workerPid);
  }

  get #found(): FileIdentity | undefined {
    try {
      const stat = new FileStat();
      stat.refresh(this.#image.fd);
      return stat.identity(this.#image.fd);
    } catch {
      return undefined;
    }
  }

  get #isUnchanged(): boolean {
    const { spec } = this.#image;
    return isLeasable(this.#image) && spec.type === "file" && this.#found?.mtimeNs === spec.identity.mtimeNs;
  }
}
