/**
 * Opening a local image for the first time: read-only, once, with its identity pinned.
 *
 * The caller of an attach opens the image by its path and sends the descriptor to the manager, so that both use the
 * same file even if the path leads elsewhere for the manager. A later manager opens the path in a record. Each reason
 * why a file cannot be an image has one error here.
 */
import { openSync, readlinkSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { ErofsNbdError } from "../errors.ts";
import { errnoName } from "../sys/errno.ts";
import { MountTable } from "../sys/files/mount-table.ts";
import { close, O_ACCMODE, O_PATH, O_WRONLY, openFlags, pread } from "../sys/libc/files.ts";
import { type FileIdentity, fileSystemOf, identifyImage, leadsTo } from "./file-identity.ts";
import type { FileSourceSpec } from "./source-spec.ts";

/** An open image: the caller closes `fd` (close-on-exec). */
export interface OpenImage {
  readonly fd: number;
  readonly spec: FileSourceSpec;
}

const REASONS: Record<string, [why: string, hint: string]> = {
  ENOENT: ["there is no such file", "check the path; a relative path starts at the current directory"],
  ENOTDIR: ["a part of the path is not a directory", "check the path"],
  EACCES: ["permission denied", "run as root, or make the image and its directories readable"],
  EISDIR: ["it is a directory", "name an image file, such as one made by mkfs.erofs"],
  ELOOP: ["too many symbolic links", "check the path for a link that leads to itself"],
  ENXIO: ["no device is behind that node", "check that the device exists"],
};

const A_SOCKET = ["it is a socket", "name an image file, or a block device"] as const;

/** open(2) says ENXIO of a socket as well as of a node without a device. */
const isSocket = (code: string, path: string): boolean =>
  code === "ENXIO" && statSync(path, { throwIfNoEntry: false })?.isSocket() === true;

/** O_RDONLY | O_NONBLOCK (a FIFO must not block) | O_CLOEXEC, which Node always adds. */
const OPEN_FLAGS = 0o4000;

/** @throws ErofsNbdError ERR_IMAGE: missing, unreadable, a directory, empty */
export function openImage(path: string): OpenImage {
  let fd: number;
  try {
    fd = openSync(path, OPEN_FLAGS);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "an unknown error";
    const [why, hint] = isSocket(code, path) ? A_SOCKET : (REASONS[code] ?? [code, undefined]);
    throw new ErofsNbdError("ERR_IMAGE", `cannot open image ${path}: ${why}`, { hint, cause: error });
  }
  return closingOnError(fd, () => ({ fd, spec: specOf(fd, path, identify(fd, path)) }));
}

/**
 * Opens an image whose descriptor another process has sent; `name` is the sender's name for it. Takes over the
 * descriptor, and opens the file once more, so that flags, position and locks are not shared with the sender.
 * @throws ErofsNbdError ERR_IMAGE: not opened for reading, no file or block device, empty
 */
export function openHandedImage(handedFd: number, name: string): OpenImage {
  const fd = closingOnError(handedFd, () => {
    const flags = openFlags(handedFd);
    const isReadable = flags >= 0 && (flags & O_PATH) === 0 && (flags & O_ACCMODE) !== O_WRONLY;
    if (!isReadable) throw unusable(name, "its descriptor was not opened for reading");
    identify(handedFd, name);
    return openAgain(handedFd, (flags & O_ACCMODE) === 0, name);
  });
  if (fd !== handedFd) close(handedFd);
  return closingOnError(fd, () => {
    const identity = identify(fd, name);
    const got = pread(fd, new Uint8Array(1), 1, 0);
    if (got < 0) throw unusable(name, `it cannot be read: ${errnoName(-got)}`);
    return { fd, spec: specOf(fd, name, identity) };
  });
}

/**
 * The same file, opened once more; the descriptor itself if that is not allowed, as on some network file systems.
 */
function openAgain(fd: number, isReadOnly: boolean, name: string): number {
  try {
    return openSync(`/proc/self/fd/${fd}`, OPEN_FLAGS);
  } catch (error) {
    if (isReadOnly) return fd;
    throw unusable(name, `it cannot be opened for reading: ${(error as NodeJS.ErrnoException).code}`);
  }
}

function identify(fd: number, name: string): FileIdentity {
  const identity = identifyImage(fd, name);
  if (identity.sizeBytes > 0) return identity;
  throw unusable(name, "it is empty", "make the image again; an interrupted build leaves an empty file");
}

/** The kernel's name for an open file is used as its path only if it leads back to the file. */
function specOf(fd: number, name: string, identity: FileIdentity): FileSourceSpec {
  let path: string;
  try {
    path = readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    // There is no /proc, as in a bare chroot.
    path = resolve(name);
  }
  return mayLeadTo(path, fd) && leadsTo(path, identity)
    ? { type: "file", path, identity }
    : { type: "file", path, isHandedIn: true, identity };
}

/** Their files have other device numbers than their mounts. */
const MANY_NUMBERS: ReadonlySet<string | undefined> = new Set(["btrfs", "bcachefs", "overlay"]);

/**
 * Whether a path may lead to the file system that an open file is on. If it does not, a mount covers the file, and a
 * walk along the path could wait for that one for ever. The file may be on a mount of another namespace.
 */
function mayLeadTo(path: string, fd: number): boolean {
  try {
    const mounts = new MountTable();
    const there = mounts.at(path);
    const own = mounts.ofFile(fd);
    if (own !== undefined) return there?.device === own.device;
    return MANY_NUMBERS.has(there?.type) || there?.device === fileSystemOf(fd);
  } catch {
    // There is no /proc.
    return true;
  }
}

function unusable(name: string, why: string, hint?: string): ErofsNbdError {
  return new ErofsNbdError("ERR_IMAGE", `cannot use ${name}: ${why}`, { hint });
}

function closingOnError<T>(fd: number, work: () => T): T {
  try {
    return work();
  } catch (error) {
    close(fd);
    throw error;
  }
}
