/**
 * A local image as a source: a regular file or a block device, read through one descriptor.
 *
 * The descriptor was opened once, by the caller of the attach, and comes with the identity that was pinned then. The
 * path is never opened again, so that a file put in its place is never read. A file that was truncated or changed gives
 * errors until it is as it was, never zeros.
 *
 * Under a read lease (read-lease.ts) the file cannot change: `verify` is a comparison of times, and pages may leave by
 * reference. Without a lease, bytes are copied and then the file's identity is looked at. A write changes a file's time
 * before its bytes, so bytes that were copied before a look that finds the time unchanged are those that were pinned.
 * Two limits remain: the grain of that time (milliseconds), and stores through a mapping that was dirty already, which
 * change no time. The modification time can be set back, the change time (stx_ctime) cannot: if it has moved since the
 * last look, the bytes may be those of a moment in between, and are read again.
 *
 * A changed time alone is no change while the lease is held: there was no write. The new time is then pinned, by
 * `refresh`, and when a break is noticed while the writer still has to wait.
 */

import { ERRNO, errnoName } from "../sys/errno.ts";
import { close, pread } from "../sys/libc/files.ts";
import { loopClock } from "../sys/loop-clock.ts";
import { AllocationMap } from "./allocation-map.ts";
import { describeChange, type FileIdentity, FileStat } from "./file-identity.ts";
import { canBeLeased, type ReadLease, takeReadLease } from "./read-lease.ts";
import { type ExtentOwner, type FileExtent, type Source, SourceError, StaleReadError } from "./source.ts";

export class FileSource implements Source, ExtentOwner {
  readonly sizeBytes: number;
  readonly asynchronous = false;
  readonly #fd: number;
  readonly #path: string;
  readonly #stat = new FileStat();
  #identity: FileIdentity;
  #mtimeSeconds = 0;
  #mtimeNanoseconds = 0;
  /** The change time at the last look before what is read now; NaN before the first. */
  #ctimeSeconds = Number.NaN;
  #ctimeNanoseconds = 0;
  /** False for file systems in user space that invent a change time at each look. */
  #hasSteadyCtime = true;
  #canBeLeased: boolean | undefined;
  #change: string | undefined;
  #lease: ReadLease | undefined;
  /** The file was seen to be as pinned, and the lease has been held since. */
  #isLeased = false;
  #allocation: AllocationMap | undefined;
  /** Called once per lease, when it is found to be broken; possibly in the middle of a read. */
  onBroken: (() => void) | undefined;

  /** Takes over the descriptor. `path` is only for messages. */
  constructor(fd: number, identity: FileIdentity, path: string) {
    this.#fd = fd;
    this.#identity = identity;
    this.#path = path;
    this.sizeBytes = identity.sizeBytes;
    this.#pin(identity);
    if (identity.changedNs === undefined) return;
    this.#ctimeSeconds = Number(BigInt(identity.changedNs) / 1_000_000_000n);
    this.#ctimeNanoseconds = Number(BigInt(identity.changedNs) % 1_000_000_000n);
  }

  get kind(): FileIdentity["kind"] {
    return this.#identity.kind;
  }

  /** The pinned identity: that of the attach, with the modification time seen at the last look under a lease. */
  get identity(): FileIdentity {
    return this.#identity;
  }

  get allocation(): AllocationMap | undefined {
    if (this.#identity.kind === "file") this.#allocation ??= new AllocationMap(this.#fd, this.sizeBytes);
    return this.#allocation;
  }

  /** Takes a lease on this file, whose break is signalled to this process; see takeReadLease. */
  takeLease(): number | undefined {
    return this.canBeLeased ? takeReadLease(this.#fd, process.pid) : undefined;
  }

  /** Whether a lease on this file keeps all writers out. */
  get canBeLeased(): boolean {
    this.#canBeLeased ??= this.#identity.kind === "file" && canBeLeased(this.#fd);
    return this.#canBeLeased;
  }

  /** What the last look has found changed in the file, in words; undefined if nothing. */
  get change(): string | undefined {
    return this.#change;
  }

  /**
   * Uses a lease on this file, which stays the caller's. `isVouched`: a former worker has seen under the same lease
   * that the file is as pinned. Else the file is looked at now.
   */
  useLease(lease: ReadLease, isVouched: boolean): void {
    this.#lease = lease;
    // The first look notes when the lease was seen held.
    lease.look();
    this.#isLeased = isVouched && lease.isHeld;
    if (!this.#isLeased) this.refresh();
  }

  /** Called when the lease has been let go. */
  dropLease(): void {
    this.#lease = undefined;
    this.#isLeased = false;
  }

  /** Whether the file cannot change now. */
  get isLeased(): boolean {
    if (!this.#isLeased) return false;
    if (this.#lease?.isHeld === true) return true;
    this.#isLeased = false;
    this.#repin();
    this.onBroken?.();
    return false;
  }

  get mayShare(): boolean {
    return this.#identity.kind === "block-device" || this.isLeased;
  }

  /**
   * Looks at lease and file, also without reads. To be called about once a second, unless the file system may hang.
   * `change` is the result.
   */
  refresh(): void {
    this.#change = this.#refresh();
  }

  #refresh(): string | undefined {
    if (this.#identity.kind === "block-device") return undefined;
    // First the file, then the lease: a lease that is held now was held when the file was looked at.
    const failure = this.#ask();
    if (failure !== undefined) return failure.message;
    // The usual case, for every link every second, allocates nothing.
    if (this.#isAsPinned && this.#isLeased && this.#lease?.look() === true) {
      this.#noteCtime();
      return undefined;
    }
    const found = this.#stat.identity(this.#fd);
    if (this.#lease?.look() === true) {
      if (this.#isLeased) this.#pin({ ...this.#identity, mtimeNs: found.mtimeNs });
      this.#isLeased ||= describeChange(this.#identity, found) === undefined;
      if (this.#isLeased) this.#noteCtime();
    }
    return this.isLeased ? undefined : describeChange(this.#identity, found);
  }

  /**
   * Pins the file's time after a break that has just been noticed, if the writer still waits: the time since the lease
   * was last seen held is shorter than writers have to wait. The bytes are still those that were attached.
   */
  #repin(): void {
    const lease = this.#lease;
    const found = this.#look();
    if (lease === undefined || found instanceof SourceError) return;
    if (loopClock.read() >= lease.protectedUntilMs || found.sizeBytes !== this.sizeBytes) return;
    this.#pin({ ...this.#identity, mtimeNs: found.mtimeNs });
    // What has been read until now is unchanged, too.
    this.#noteCtime();
  }

  #pin(identity: FileIdentity): void {
    this.#identity = identity;
    this.#mtimeSeconds = Number(BigInt(identity.mtimeNs) / 1_000_000_000n);
    this.#mtimeNanoseconds = Number(BigInt(identity.mtimeNs) % 1_000_000_000n);
  }

  read(target: Uint8Array, offsetBytes: number): void {
    let filled = 0;
    while (filled < target.length) {
      const rest = filled === 0 ? target : target.subarray(filled);
      const got = pread(this.#fd, rest, rest.length, offsetBytes + filled);
      if (got === -ERRNO.EINTR) continue;
      if (got < 0)
        throw new SourceError(`cannot read ${this.#path} at ${offsetBytes + filled}: ${errnoName(-got)}`);
      if (got === 0) {
        this.verify();
        throw new SourceError(`cannot read ${this.#path} at ${offsetBytes + filled}: the file ends there`);
      }
      filled += got;
    }
  }

  verify(): void {
    if (this.#identity.kind === "block-device" || this.isLeased) return;
    const failure = this.#ask();
    if (failure !== undefined) throw failure;
    if (this.#isAsPinned) {
      this.#change = undefined;
      if (this.#isSteady) return;
      throw new StaleReadError(
        `cannot serve ${this.#path}: it was touched during each of several reads`,
        this.#renew,
      );
    }
    this.#change = describeChange(this.#identity, this.#stat.identity(this.#fd)) ?? "it was modified";
    throw new SourceError(`cannot serve ${this.#path}: ${this.#change}`);
  }

  extent(offsetBytes: number): FileExtent | undefined {
    return this.mayShare ? { fd: this.#fd, offsetBytes, owner: this } : undefined;
  }

  close(): void {
    close(this.#fd);
  }

  /** Whether size and modification time at the last look are the pinned ones. */
  get #isAsPinned(): boolean {
    const stat = this.#stat;
    return (
      stat.sizeBytes === this.#identity.sizeBytes &&
      stat.mtimeNanoseconds === this.#mtimeNanoseconds &&
      stat.mtimeSeconds === this.#mtimeSeconds
    );
  }

  get #isSteady(): boolean {
    if (!this.#hasSteadyCtime) return true;
    return (
      this.#stat.ctimeSeconds === this.#ctimeSeconds && this.#stat.ctimeNanoseconds === this.#ctimeNanoseconds
    );
  }

  /** Looks twice in a row: a file system whose change time differs between the looks invents it. */
  readonly #renew = (): void => {
    const failure = this.#ask();
    if (failure !== undefined) throw failure;
    this.#allocation?.forget();
    this.#noteCtime();
    if (this.#ask() === undefined && !this.#isSteady) this.#hasSteadyCtime = false;
  };

  #noteCtime(): void {
    this.#ctimeSeconds = this.#stat.ctimeSeconds;
    this.#ctimeNanoseconds = this.#stat.ctimeNanoseconds;
  }

  #look(): FileIdentity | SourceError {
    return this.#ask() ?? this.#stat.identity(this.#fd);
  }

  #ask(): SourceError | undefined {
    try {
      this.#stat.refresh(this.#fd);
      return undefined;
    } catch (error) {
      // The file system may be gone; reads of other images are not affected.
      return new SourceError(
        `cannot look at ${this.#path}: ${error instanceof Error ? error.message : error}`,
      );
    }
  }
}
