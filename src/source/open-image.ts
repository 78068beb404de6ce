/**
 * Opening a local image for the first time: read-only, once, with its identity pinned.
 *
 * Whoever wants an image attached opens it by its path and hands the descriptor to the manager, so that both mean
 * the same file wherever the path leads from where the manager is. A later manager opens what a record names. Every
 * reason why something cannot be an image becomes one clear error here.
 */
import { openSync, readlinkSync } from "node:fs";
import { resolve } from "node:path";
import { ErofsNbdError } from "../errors.ts";
import { errnoName } from "../sys/errno.ts";
import { close, O_ACCMODE, O_PATH, O_WRONLY, openFlags, pread } from "../sys/libc.ts";
import { type FileIdentity, identifyImage, leadsTo } from "./file-identity.ts";
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

/** O_RDONLY | O_NONBLOCK (a FIFO must not block us) | O_CLOEXEC, which Node always adds. */
const OPEN_FLAGS = 0o4000;

/** @throws ErofsNbdError ERR_IMAGE: missing, unreadable, a directory, empty */
export function openImage(path: string): OpenImage {
  let fd: number;
  try {
    fd = openSync(path, OPEN_FLAGS);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "an unknown error";
    const [why, hint] = REASONS[code] ?? [code, undefined];
    throw new ErofsNbdError("ERR_IMAGE", `cannot open image ${path}: ${why}`, { hint, cause: error });
  }
  return closingOnError(fd, () => ({ fd, spec: specOf(fd, path, identify(fd, path)) }));
}

/**
 * An image whose descriptor another process has sent; `name` is what that calls it. Takes the descriptor over, and
 * gives the image one of its own: nobody shares its flags, its position or its locks.
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
 * The same file, opened once more; where that is not allowed (a network file system may not let us), the descriptor
 * itself.
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

/** The kernel's name for an open file is a path to it only if that leads back. */
function specOf(fd: number, name: string, identity: FileIdentity): FileSourceSpec {
  let path: string;
  try {
    path = readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    // Without /proc: as in a bare chroot.
    path = resolve(name);
  }
  return leadsTo(path, identity)
    ? { type: "file", path, identity }
    : { type: "file", path, isHandedIn: true, identity };
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
