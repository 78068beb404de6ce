/**
 * The manager's part of a link's read lease. It takes the lease, keeps a duplicate of its open file description, and
 * sets the worker that is signalled when the lease is broken.
 *
 * Workers may not take leases (no CAP_LEASE, another user). They release one by closing it: a lease ends when the last
 * duplicate of its description is closed. The manager's duplicate keeps it while the link has no worker, because
 * replies that a dead worker sent by reference are still in the pipe and in the socket.
 *
 * What happens if a process dies at any moment:
 * - the manager, while it takes a lease: the description is closed with it, or the message is already in the worker's
 *   socket, and the worker has the lease;
 * - a worker, while a break is pending: the break stays pending for the rest of lease-break-time. The next worker gets
 *   the same description, sees the break with F_GETLEASE, and starts by releasing the lease. The same check covers a
 *   signal that is lost between two owners;
 * - the manager, before it has received `lease-over`: its duplicate is closed with it;
 * - both at once: the socket dies as well. Replies that the kernel has not read by then are unprotected for a moment.
 */
import type { Exactness } from "../../source/exactness.ts";
import { type FileIdentity, FileStat } from "../../source/file-identity.ts";
import { canBeLeased, leaseBreakTimeMs, takeReadLease } from "../../source/read-lease.ts";
import type { Image } from "../../supervisor/ports.ts";
import { close, hasReadLease, setSignalOwner } from "../../sys/libc/files.ts";
import { loopClock } from "../../sys/loop-clock.ts";
import type { ServedLinkDescription } from "../../worker-protocol/messages.ts";

/** Replies sent by reference must leave the socket while this much of lease-break-time is left. */
const MARGIN_MS = 1000;
/** Delays between attempts to get a lease again. The obstacle may be permanent. */
const FIRST_RETRY_MS = 200;
const MAX_RETRY_MS = 10_000;

/** Determined once per image: a hanging file system must not hang the manager. Other images are never accessed here. */
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

  /** `fd`: the description of a lease that a reattached worker has. It is closed here. */
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

  /** As reported by the link's worker; undefined if it has not reported. */
  get exactness(): Exactness | undefined {
    return this.#exactness;
  }

  /** This worker serves the link next. It gets no lease if it does not handle the signal that comes with it. */
  prepareFor(workerPid: number, takesLeases: boolean): void {
    if (!takesLeases) return this.drop();
    if (this.#fd === undefined) this.#take(workerPid);
    // If the worker has just died, the signal is lost. The next worker checks the lease itself.
    else setSignalOwner(this.#fd, workerPid);
  }

  /** Tries to get a lease again for the link's worker. Returns the description to send, if there was none before. */
  renewFor(workerPid: number): number | undefined {
    const nowMs = performance.now();
    if (this.#fd !== undefined || nowMs < this.#retryAtMs) return undefined;
    this.#retryAtMs = nowMs + this.#retryMs;
    this.#retryMs = Math.min(this.#retryMs * 2, MAX_RETRY_MS);
    if (this.#isUnchanged) this.#take(workerPid);
    return this.#fd;
  }

  /** Stores what the worker reports. Returns whether the image is pinned to another modification time now. */
  note(exactness: Exactness): boolean {
    this.#exactness = exactness;
    if (exactness.exact === "lease" && this.#fd !== undefined) this.#isVouched = true;
    const { spec } = this.#image;
    if (spec.type !== "file" || spec.identity.mtimeNs === exactness.mtimeNs || !isLeasable(this.#image))
      return false;
    // Workers have fewer rights than the manager: the report is checked against the file.
    const found = this.#found;
    if (found?.mtimeNs !== exactness.mtimeNs) return false;
    const { mtimeNs, changedNs } = found;
    this.#image.spec = { ...spec, identity: { ...spec.identity, mtimeNs, changedNs } };
    return true;
  }

  /**
   * Whether replies that were sent by reference are unchanged until now. The worker has last seen the lease held at
   * `seenAtMs` on the loop's clock; 0: it has sent nothing by reference.
   */
  protects(seenAtMs: number): boolean {
    if (seenAtMs === 0 || (this.#fd !== undefined && hasReadLease(this.#fd))) return true;
    return this.#fd !== undefined && loopClock.read() < seenAtMs + leaseBreakTimeMs() - MARGIN_MS;
  }

  /** Closes the manager's duplicate. The worker closes its own. */
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
