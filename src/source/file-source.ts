/**
 * A local image as a source: a regular file or a block device, read through one descriptor.
 *
 * The descriptor was opened once, by whoever attached the image, and arrives here with the identity that was
 * pinned then; the path is never opened again, so a file put in its place cannot slip in. A file that was
 * truncated or changed underneath answers with errors until it is as it was, never with zeros.
 *
 * Under a read lease (read-lease.ts) the file cannot change, and nothing has to be looked at: `verify` is a
 * comparison of times, and pages may leave by reference. Without one, bytes are copied first and the file's identity
 * is looked at then. A write changes a file's time before its bytes, so what was copied before a look that finds the
 * time unchanged is as it was pinned, up to the grain of that time (milliseconds), and but for stores through a
 * mapping that was dirty already, which change no time. The modification time can be set back, the change time
 * (stx_ctime) cannot: where that has moved since the last look, what was read meanwhile may be of a time in between,
 * and is read again.
 *
 * A changed time alone is no change while the lease is held: there can have been no write. The new time is pinned
 * then, by `refresh`, and when a break is noticed while the writer still has to wait.
 */

import { ERRNO, errnoName } from "../sys/errno.ts";
import { close, pread } from "../sys/libc.ts";
import { loopClock } from "../sys/loop-clock.ts";
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
  /** Some file systems in user space make the change time up at each look. */
  #hasSteadyCtime = true;
  #canBeLeased: boolean | undefined;
  #change: string | undefined;
  #lease: ReadLease | undefined;
  /** The file is as it was pinned, and the lease has been held since that was seen. */
  #isLeased = false;
  /** Called once per lease, when it turns out to be broken; in the middle of a read, perhaps. */
  onBroken: (() => void) | undefined;

  /** Takes the descriptor over. `path` is only for messages. */
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

  /** What counts as the file's identity now: that of the attach, with the time it had when a lease was last looked at. */
  get identity(): FileIdentity {
    return this.#identity;
  }

  /** Takes a lease on this file, of which this process hears; see takeReadLease. */
  takeLease(): number | undefined {
    return this.canBeLeased ? takeReadLease(this.#fd, process.pid) : undefined;
  }

  /** Whether a lease on this file means anything. */
  get canBeLeased(): boolean {
    this.#canBeLeased ??= this.#identity.kind === "file" && canBeLeased(this.#fd);
    return this.#canBeLeased;
  }

  /** What the last look has found to have changed in the file, in words; undefined: nothing. */
  get change(): string | undefined {
    return this.#change;
  }

  /**
   * A lease on this file, which stays the caller's. `isVouched`: a former worker has seen under this very lease that
   * the file is as it was pinned. Else that is looked at now.
   */
  useLease(lease: ReadLease, isVouched: boolean): void {
    this.#lease = lease;
    // A first look, so that it is known from when on it was held.
    lease.look();
    this.#isLeased = isVouched && lease.isHeld;
    if (!this.#isLeased) this.refresh();
  }

  /** The lease is let go. */
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
   * Looks at lease and file, whether reads come or not; to be called about once a second, where the file system is
   * one that answers. `change` says what it found.
   */
  refresh(): void {
    this.#change = this.#refresh();
  }

  #refresh(): string | undefined {
    if (this.#identity.kind === "block-device") return undefined;
    // First the file, then the lease: a lease that is held now was held when the file was looked at.
    const failure = this.#ask();
    if (failure !== undefined) return failure.message;
    // The usual case, of every link in every second: nothing is made that would have to be collected.
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
   * After a break that has just been noticed: the writer still waits, if no more time has passed since the lease was
   * seen held than it has to wait at least. So the time that the file has now is that of the bytes that were
   * attached.
   */
  #repin(): void {
    const lease = this.#lease;
    const found = this.#look();
    if (lease === undefined || found instanceof SourceError) return;
    if (loopClock.read() >= lease.protectedUntilMs || found.sizeBytes !== this.sizeBytes) return;
    this.#pin({ ...this.#identity, mtimeNs: found.mtimeNs });
    // What has been read until now is as it was, too.
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
      throw new StaleReadError(`cannot serve ${this.#path}: it is touched all the time`, this.#renew);
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

  /** Whether size and modification time at the last look are those that count. */
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

  /** Two looks with nothing between them: a change time that differs in them means nothing. */
  readonly #renew = (): void => {
    const failure = this.#ask();
    if (failure !== undefined) throw failure;
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
      // A file system that has gone away: of no concern to who reads other images.
      return new SourceError(
        `cannot look at ${this.#path}: ${error instanceof Error ? error.message : error}`,
      );
    }
  }
}
