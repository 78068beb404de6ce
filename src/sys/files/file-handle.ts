/**
 * File handles: a file of a mounted file system by number instead of by path (name_to_handle_at(2)).
 *
 * A handle leads to its file after a rename, and where a mount covers its path. It is no proof: the number of a file
 * system is given to another one after an umount. The caller compares what it gets with what it wanted. Opening by
 * handle needs CAP_DAC_READ_SEARCH, and a file system that can be exported (not overlayfs as usually mounted).
 */
import { closeSync, openSync } from "node:fs";
import { bind, check, result } from "../libc/bind.ts";
import { MountTable } from "./mount-table.ts";

const c = {
  nameToHandleAt: bind("int name_to_handle_at(int, const char *, void *, void *, int)"),
  openByHandleAt: bind("int open_by_handle_at(int, void *, int)"),
};

/** Safe for JSON. */
export interface FileHandle {
  /** "major:minor" of the file system, as mountinfo has it. */
  readonly fileSystem: string;
  /** Known to the file system alone. */
  readonly type: number;
  /** In hexadecimal digits. */
  readonly bytes: string;
}

const AT_EMPTY_PATH = 0x1000;
/** MAX_HANDLE_SZ (linux/exportfs.h), behind the two words of a `struct file_handle`. */
const MAX_HANDLE_BYTES = 128;
const HEAD_BYTES = 8;
/** O_RDONLY | O_NONBLOCK | O_CLOEXEC */
const OPEN_FLAGS = 0o2004000;

/**
 * The handle of an open file; undefined where its file system has none, or is mounted in another namespace only. Asks
 * no server: the kernel makes it from what it has in memory.
 */
export function fileHandleOf(fd: number): FileHandle | undefined {
  const buffer = new Uint8Array(HEAD_BYTES + MAX_HANDLE_BYTES);
  const words = new Int32Array(buffer.buffer, 0, 2);
  words[0] = MAX_HANDLE_BYTES;
  try {
    if (c.nameToHandleAt(fd, "", buffer, new Int32Array(1), AT_EMPTY_PATH) < 0) return undefined;
    const mount = new MountTable().ofFile(fd);
    if (mount === undefined) return undefined;
    const bytes = Buffer.from(buffer.buffer, HEAD_BYTES, words[0] as number).toString("hex");
    return { fileSystem: mount.device, type: words[1] as number, bytes };
  } catch {
    // There is no /proc.
    return undefined;
  }
}

/**
 * Opens the file through a mount of its file system that nothing covers. May wait for the file system. `mounts` may be
 * a little old: where a mount has come since, the handle leads nowhere, or to another file.
 * @throws SystemError, Error without such a mount
 */
export function openByHandle(
  { fileSystem, type, bytes }: FileHandle,
  mounts: MountTable = new MountTable(),
): number {
  const [mount] = mounts.uncovered(fileSystem);
  if (mount === undefined)
    throw new Error(`cannot open a file handle: no mount of ${fileSystem} can be reached`);
  const handle = Buffer.from(bytes, "hex");
  const buffer = new Uint8Array(HEAD_BYTES + handle.length);
  new Int32Array(buffer.buffer, 0, 2).set([handle.length, type]);
  buffer.set(handle, HEAD_BYTES);
  // O_PATH would not do: the kernel wants a descriptor that is open.
  const mountFd = openSync(mount.path, OPEN_FLAGS);
  try {
    return check("open_by_handle_at", result(c.openByHandleAt(mountFd, buffer, OPEN_FLAGS)));
  } finally {
    closeSync(mountFd);
  }
}
