/**
 * A read lease on an image: while it is held, the kernel lets no process open the image for writing or truncate it.
 *
 * `takeReadLease` acquires one; that needs the file's owner or CAP_LEASE. `ReadLease` is the view of a process that
 * serves the image. All code that sends bytes under a lease relies on these rules (fs/locks.c):
 *
 * - A lease is set once, on a description of its own, and never again. F_GETLEASE returns F_RDLCK only if the lease was
 *   held all the time since then.
 * - A process that opens the file for writing breaks the lease and waits until the lease is let go (the last duplicate
 *   of its description is closed) or `lease-break-time` has passed. From the break on F_GETLEASE returns F_UNLCK.
 * - So a lease that was seen held at T protects the file until T + lease-break-time. It counts as held for half of that
 *   time without another look; the other half is for sends that began before.
 *
 * A signal reports a break much earlier. If it is lost, the next look finds the break.
 */
import { openSync, readFileSync } from "node:fs";
import { close, fileSystemType, hasReadLease, setReadLease, setSignalOwner } from "../sys/libc/files.ts";
import { loopClock } from "../sys/loop-clock.ts";

/** FUSE and overlayfs grant leases, too, but writes to the files behind them break none. */
const LEASABLE_NAMES: ReadonlySet<string> = new Set(["ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"]);
/** The same in linux/magic.h. */
const LEASABLE: ReadonlySet<number> = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // XFS
  0x9123683e, // btrfs
  0x01021994, // tmpfs
]);

/**
 * No leases are used below this: half of the time between a break and the end of a lease has to be much longer than a
 * worker is away from its event loop (20 ms, plus the longest read of a healthy disk).
 */
const MIN_BREAK_TIME_MS = 5000;

/**
 * How long the kernel lets a writer wait for a lease (fs.lease-break-time), in milliseconds; 0 without usable leases.
 */
export function leaseBreakTimeMs(): number {
  try {
    const ms = Number(readFileSync("/proc/sys/fs/lease-break-time", "latin1")) * 1000;
    return ms >= MIN_BREAK_TIME_MS ? ms : 0;
  } catch {
    return 0;
  }
}

/**
 * Whether a lease on an open file keeps all writers out, by its file system. To be called once: if the file is on a
 * mount of another namespace, this asks the file system itself, which may be slow.
 */
export function canBeLeased(fd: number): boolean {
  try {
    const mount = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1];
    const mounts = readFileSync("/proc/self/mountinfo", "latin1").split("\n");
    const name = mounts
      .find((line) => line.startsWith(`${mount} `))
      ?.split(" - ")[1]
      ?.split(" ")[0];
    return name === undefined ? LEASABLE.has(fileSystemType(fd)) : LEASABLE_NAMES.has(name);
  } catch {
    return false;
  }
}

/**
 * Opens an image that can be leased once more and sets a lease. A break sends SIGIO to `ownerPid`, which must have a
 * handler: without one the signal kills it. Undefined if there is no lease: a process has the file open for writing, or
 * permissions or descriptors are missing.
 */
export function takeReadLease(imageFd: number, ownerPid: number): number | undefined {
  if (leaseBreakTimeMs() === 0) return undefined;
  let fd: number | undefined;
  try {
    // O_RDONLY | O_NONBLOCK | O_CLOEXEC, which Node always adds.
    fd = openSync(`/proc/self/fd/${imageFd}`, 0o4000);
    // The owner first: without one the kernel makes this process the owner of the lease.
    if (setSignalOwner(fd, ownerPid) === 0 && setReadLease(fd) === 0) return fd;
  } catch {
    // Reads are checked instead.
  }
  if (fd !== undefined) close(fd);
  return undefined;
}

export class ReadLease {
  readonly fd: number;
  #isHeld = true;
  #seenAtMs = Number.NEGATIVE_INFINITY;
  #breakTimeMs = leaseBreakTimeMs();

  /** Takes over the description. */
  constructor(fd: number) {
    this.fd = fd;
  }

  /** Whether the file is protected now and for a while. Once false it stays false. Usually a comparison of times. */
  get isHeld(): boolean {
    return this.#isHeld && (loopClock.read() - this.#seenAtMs < this.#breakTimeMs / 2 || this.look());
  }

  /** Until when the file is certainly protected: a break can only have come after the lease was last seen held. */
  get protectedUntilMs(): number {
    return this.#seenAtMs + this.#breakTimeMs;
  }

  /** When the lease was last seen held, in milliseconds of the loop's clock. */
  get seenAtMs(): number {
    return this.#seenAtMs;
  }

  /** Asks the kernel whether it is still held. */
  look(): boolean {
    const askedAtMs = loopClock.read();
    this.#isHeld &&= hasReadLease(this.fd);
    if (this.#isHeld) this.#seenAtMs = askedAtMs;
    return this.#isHeld;
  }

  /** Applies a changed fs.lease-break-time, which is valid for later breaks. */
  updateBreakTime(breakTimeMs: number): void {
    if (breakTimeMs === 0) this.#isHeld = false;
    this.#breakTimeMs = Math.min(this.#breakTimeMs, breakTimeMs);
  }
}
