/**
 * Rotates a log file that is also standard error: when it is large, its content becomes the old log file.
 *
 * Used by log.ts for an automatic manager. Its workers append to the same open file, so it is copied and truncated
 * rather than replaced. What a worker writes between the two is lost.
 */
import { copyFileSync, fstatSync, ftruncateSync, rmSync, statSync } from "node:fs";

/** Size limit. With the old file, twice as much is used. */
export const MAX_LOG_BYTES: number = 1 << 20;
/** Bytes written between two checks of the size. */
const LOOK_BYTES = 32 * 1024;

export class LogFile {
  readonly #fd: number;
  readonly #path: string;
  readonly #oldPath: string;
  /** The size is checked before the first line. */
  #writtenBytes = LOOK_BYTES;

  /** `fd` is open for appending to the file at `path`. */
  constructor(fd: number, path: string, oldPath: string) {
    this.#fd = fd;
    this.#path = path;
    this.#oldPath = oldPath;
  }

  /** Whether a descriptor refers to that file, and not to a terminal or to journald. */
  static isAt(fd: number, path: string): boolean {
    try {
      const ours = fstatSync(fd);
      const found = statSync(path);
      return ours.isFile() && ours.dev === found.dev && ours.ino === found.ino;
    } catch {
      // ENOENT, EBADF.
      return false;
    }
  }

  /** Call before a line of so many bytes is written. */
  willWrite(lengthBytes: number): void {
    this.#writtenBytes += lengthBytes;
    if (this.#writtenBytes < LOOK_BYTES) return;
    this.#writtenBytes = 0;
    try {
      if (fstatSync(this.#fd).size > MAX_LOG_BYTES) this.#rotate();
    } catch {
      // The log goes on without rotation.
    }
  }

  #rotate(): void {
    try {
      copyFileSync(this.#path, this.#oldPath);
    } catch {
      // No space for two files: the old lines are dropped rather than fill the run directory.
      rmSync(this.#oldPath, { force: true });
    }
    ftruncateSync(this.#fd, 0);
  }
}
