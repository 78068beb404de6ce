/**
 * A read lease on an image: while it is held, the kernel lets no process open the image for writing or truncate it.
 *
 * `takeReadLease` acquires one, with the rights of the file's owner or CAP_LEASE. `ReadLease` is what a process that
 * serves the image knows of it. The rules, which everything that sends bytes under a lease relies on (fs/locks.c):
 *
 * - A lease is set once on a description of its own and never again. F_GETLEASE says F_RDLCK only if it was held all the
 *   time since then.
 * - A process that opens the file for writing breaks the lease and waits, until the lease is let go (the last duplicate of
 *   its description is closed) or `lease-break-time` has passed. From the break on F_GETLEASE says F_UNLCK.
 * - So a lease that was seen held at T protects the file until T + lease-break-time, whatever happens after T. It counts
 *   as held for half of that without another look; the other half is for what was begun before it ended.
 *
 * A signal tells of a break much earlier. Where that is lost, the next look finds out.
 */
import { openSync, readFileSync } from "node:fs";
import { close, fileSystemType, hasReadLease, setReadLease, setSignalOwner } from "../sys/libc.ts";
import { loopClock } from "../sys/loop-clock.ts";

/** FUSE and overlayfs grant leases, too, and the files behind them are written without breaking any. */
const LEASABLE_NAMES: ReadonlySet<string> = new Set(["ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"]);
/** The same in linux/magic.h. */
const LEASABLE: ReadonlySet<number> = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // XFS
  0x9123683e, // btrfs
  0x01021994, // tmpfs
]);

/**
 * With less than this between a break and the end of a lease nothing is promised: half of it has to be much longer than
 * a worker is away from its event loop (20 ms, and the longest read of a disk that is well).
 */
const MIN_BREAK_TIME_MS = 5000;

/** How long the kernel lets a writer wait for a lease (fs.lease-break-time), in milliseconds; 0 where leases are not to be had. */
export function leaseBreakTimeMs(): number {
  try {
    const ms = Number(readFileSync("/proc/sys/fs/lease-break-time", "latin1")) * 1000;
    return ms >= MIN_BREAK_TIME_MS ? ms : 0;
  } catch {
    return 0;
  }
}

/**
 * Whether a lease on an open file means anything, by its file system. To be asked once: where the file is on a mount
 * of another namespace, this asks the file system itself, which may not answer soon.
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
 * A new description of an open image that can be leased, with a lease on it, of which `ownerPid` hears by SIGIO when
 * it breaks: the process has to have a handler by then, or the signal kills it. Undefined where there is none to be
 * had, for now or for ever: a process has the file open for writing, rights or descriptors are missing.
 */
export function takeReadLease(imageFd: number, ownerPid: number): number | undefined {
  if (leaseBreakTimeMs() === 0) return undefined;
  let fd: number | undefined;
  try {
    // O_RDONLY | O_NONBLOCK | O_CLOEXEC, which Node always adds.
    fd = openSync(`/proc/self/fd/${imageFd}`, 0o4000);
    // The owner first: the kernel would make us the owner of a lease without one.
    if (setSignalOwner(fd, ownerPid) === 0 && setReadLease(fd) === 0) return fd;
  } catch {
    // Checking each read is always possible.
  }
  if (fd !== undefined) close(fd);
  return undefined;
}

export class ReadLease {
  readonly fd: number;
  #isHeld = true;
  #seenAtMs = Number.NEGATIVE_INFINITY;
  #breakTimeMs = leaseBreakTimeMs();

  /** Takes the description over. */
  constructor(fd: number) {
    this.fd = fd;
  }

  /** Whether the file is protected now and for a while. Once false it stays so. A comparison of times, mostly. */
  get isHeld(): boolean {
    return this.#isHeld && (loopClock.read() - this.#seenAtMs < this.#breakTimeMs / 2 || this.look());
  }

  /** Until when the file was surely protected: the break, where there was one, came after it was last seen held. */
  get protectedUntilMs(): number {
    return this.#seenAtMs + this.#breakTimeMs;
  }

  /** When it was last seen held, in milliseconds of the loop's clock. */
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

  /** Heeds a changed fs.lease-break-time, which counts for breaks from then on. */
  updateBreakTime(breakTimeMs: number): void {
    if (breakTimeMs === 0) this.#isHeld = false;
    this.#breakTimeMs = Math.min(this.#breakTimeMs, breakTimeMs);
  }
}
