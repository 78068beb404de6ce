/**
 * The identity of a file: device, inode, size and times, pinned when an image is opened.
 *
 * The manager pins it once. Workers get it with the descriptor, and compare size and modification time for every batch.
 * A later manager compares all of it before it uses a file that it finds at a path: inode numbers and device numbers
 * are reused, and times can be set back.
 */

import { ErofsNbdError } from "../errors.ts";
import { MAX_IMAGE_BYTES } from "../limits.ts";
import { blockDeviceSizeBytes, diskSequence as diskSequenceOf } from "../sys/block-device.ts";
import { check } from "../sys/libc/bind.ts";
import { statxCachedInto, statxInto, statxPathInto } from "../sys/libc/files.ts";

/** Safe for JSON, because it is sent to workers and written into records. Times are decimal strings. */
export interface FileIdentity {
  readonly kind: "file" | "block-device";
  /** "major:minor" of the file system, or of the device itself for a block device. */
  readonly device: string;
  readonly inode: string;
  readonly sizeBytes: number;
  readonly mtimeNs: string;
  /**
   * Creation time of the inode (statx(2), stx_btime), if the file system has it. It tells apart files that reuse an
   * inode number.
   */
  readonly createdNs?: string | undefined;
  /**
   * The last change of contents or metadata (stx_ctime). It cannot be set back, but a rename, chmod or link changes it,
   * too.
   */
  readonly changedNs?: string | undefined;
  /**
   * Sequence number of the disk (BLKGETDISKSEQ), if the kernel has it. It tells apart disks that reuse a device number.
   */
  readonly diskSequence?: string | undefined;
}

const STATX_BASIC_STATS = 0x7ff;
const STATX_BTIME = 0x800;
const BTIME_AT = 80;
const CTIME_AT = 96;
const MTIME_AT = 112;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFBLK = 0o060000;
const S_IFDIR = 0o040000;

/** `struct statx` of an open descriptor (linux/stat.h), read without allocating. One per source. */
export class FileStat {
  readonly #bytes = new Uint8Array(256);
  readonly #view = new DataView(this.#bytes.buffer);

  /** Asks the kernel. @throws SystemError */
  refresh(fd: number): void {
    check("statx", statxInto(fd, STATX_BASIC_STATS, this.#bytes));
  }

  /** As `refresh`, with the creation time, which verifying does not need. @throws SystemError */
  refreshAll(fd: number): void {
    check("statx", statxInto(fd, STATX_BASIC_STATS | STATX_BTIME, this.#bytes));
  }

  /** What the kernel knows, without asking the server of a FUSE or network file system. @throws SystemError */
  refreshCached(fd: number): void {
    check("statx", statxCachedInto(fd, STATX_BASIC_STATS, this.#bytes));
  }

  /** Asks for the file at a path; false if there is none, or it cannot be seen. */
  refreshPath(path: string): boolean {
    return statxPathInto(path, STATX_BASIC_STATS, this.#bytes) === 0;
  }

  get kind(): number {
    return this.#view.getUint16(28, true) & S_IFMT;
  }

  get sizeBytes(): number {
    return this.#view.getUint32(40, true) + this.#view.getUint32(44, true) * 2 ** 32;
  }

  get mtimeSeconds(): number {
    return this.#view.getUint32(112, true) + this.#view.getInt32(116, true) * 2 ** 32;
  }

  get mtimeNanoseconds(): number {
    return this.#view.getUint32(120, true);
  }

  get ctimeSeconds(): number {
    return this.#view.getUint32(CTIME_AT, true) + this.#view.getInt32(CTIME_AT + 4, true) * 2 ** 32;
  }

  get ctimeNanoseconds(): number {
    return this.#view.getUint32(CTIME_AT + 8, true);
  }

  /** Whether the file last asked for is the same file or device, regardless of its contents. */
  isSameFile(identity: FileIdentity): boolean {
    const { kind, device } = this.#place();
    if (kind !== identity.kind || device !== identity.device) return false;
    return kind === "block-device" || this.#inode() === identity.inode;
  }

  /** The identity of the file last asked for; `fd` is needed for the size of a block device. */
  identity(fd: number): FileIdentity {
    const { kind, device } = this.#place();
    const place = { kind, device, inode: this.#inode() };
    const mtimeNs = this.#timeNs(MTIME_AT);
    if (kind === "block-device") {
      const diskSequence = diskSequenceOf(fd)?.toString();
      return { ...place, sizeBytes: blockDeviceSizeBytes(fd), mtimeNs, diskSequence };
    }
    const hasBirth = (this.#view.getUint32(0, true) & STATX_BTIME) !== 0;
    return {
      ...place,
      sizeBytes: this.sizeBytes,
      mtimeNs,
      createdNs: hasBirth ? this.#timeNs(BTIME_AT) : undefined,
      changedNs: this.#timeNs(CTIME_AT),
    };
  }

  #timeNs(at: number): string {
    const seconds = this.#view.getBigInt64(at, true);
    return (seconds * 1_000_000_000n + BigInt(this.#view.getUint32(at + 8, true))).toString();
  }

  /** "major:minor" of the file system. */
  get fileSystem(): string {
    return this.#number(136);
  }

  #place(): Pick<FileIdentity, "kind" | "device"> {
    const isBlockDevice = this.kind === S_IFBLK;
    return {
      kind: isBlockDevice ? "block-device" : "file",
      device: isBlockDevice ? this.#number(128) : this.fileSystem,
    };
  }

  #number(at: number): string {
    return `${this.#view.getUint32(at, true)}:${this.#view.getUint32(at + 4, true)}`;
  }

  #inode(): string {
    return this.#view.getBigUint64(32, true).toString();
  }
}

/**
 * Whether a descriptor refers to the same file or device. Waits for no file system: device and inode number of an open
 * file are known. @throws SystemError
 */
export function isSameFile(fd: number, identity: FileIdentity): boolean {
  const stat = new FileStat();
  stat.refreshCached(fd);
  return stat.isSameFile(identity);
}

/** "major:minor" of the file system that an open file, or a device's node, is on. @throws SystemError */
export function fileSystemOf(fd: number): string {
  const stat = new FileStat();
  stat.refreshCached(fd);
  return stat.fileSystem;
}

/** Whether a path leads to the same file or device, as this process sees it. */
export function leadsTo(path: string, identity: FileIdentity): boolean {
  const stat = new FileStat();
  return stat.refreshPath(path) && stat.isSameFile(identity);
}

/**
 * The identity of an open image.
 * @throws ErofsNbdError when it is neither a regular file nor a block device, or larger than MAX_IMAGE_BYTES
 */
export function identifyImage(fd: number, path: string): FileIdentity {
  const stat = new FileStat();
  stat.refreshAll(fd);
  if (stat.kind !== S_IFREG && stat.kind !== S_IFBLK) {
    const what = stat.kind === S_IFDIR ? "a directory" : "neither a regular file nor a block device";
    throw new ErofsNbdError("ERR_IMAGE", `cannot use ${path}: it is ${what}`, {
      hint: "name an image file, such as one made by mkfs.erofs",
    });
  }
  const identity = stat.identity(fd);
  if (identity.sizeBytes > MAX_IMAGE_BYTES) {
    throw new ErofsNbdError("ERR_IMAGE", `cannot use ${path}: it is larger than ${MAX_IMAGE_BYTES} bytes`, {
      hint: "check its size: a sparse file may be larger than was meant",
    });
  }
  return identity;
}

/** What differs between the pinned file and the file found now, in words; undefined if nothing does. */
export function describeChange(pinned: FileIdentity, found: FileIdentity): string | undefined {
  if (pinned.kind !== found.kind || pinned.device !== found.device) return "it is another file now";
  if (pinned.kind === "file" && pinned.inode !== found.inode) return "it was replaced by another file";
  if (differ(pinned.createdNs, found.createdNs))
    return "it was replaced by another file, which reuses its inode number";
  if (differ(pinned.diskSequence, found.diskSequence))
    return "its device number now belongs to another disk or medium";
  if (found.sizeBytes < pinned.sizeBytes)
    return `it was truncated from ${pinned.sizeBytes} to ${found.sizeBytes} bytes`;
  if (found.sizeBytes !== pinned.sizeBytes)
    return `its size changed from ${pinned.sizeBytes} to ${found.sizeBytes} bytes`;
  if (pinned.kind === "file" && pinned.mtimeNs !== found.mtimeNs) return "it was modified";
  return undefined;
}

/**
 * Why a file without a visible change may have changed while no process of this program had it open: it could have been
 * written and its time been set back (cp -p, rsync, touch). Undefined if that is impossible.
 */
export function describeDoubt(pinned: FileIdentity, found: FileIdentity): string | undefined {
  return differ(pinned.changedNs, found.changedNs)
    ? "it was touched after the attach, by a rename, chmod or link, or by a write whose time was set back"
    : undefined;
}

/** An unknown value proves nothing. */
function differ(pinned: string | undefined, found: string | undefined): boolean {
  return pinned !== undefined && found !== undefined && pinned !== found;
}
