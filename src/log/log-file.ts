/**
 * A log file that is also our standard error does not grow for ever: when it is large, it becomes the old one.
 *
 * Used by log.ts for an automatic manager, whose workers write to the same file: so it is copied and emptied rather than
 * replaced, and every writer, all of which append, goes on in the one that is left. What a worker writes in that instant is lost.
 */
import { copyFileSync, fstatSync, ftruncateSync, rmSync, statSync } from "node:fs";

/** One old file is kept beside it, so that both take twice this. */
export const MAX_LOG_BYTES: number = 1 << 20;
/** How much is written between two looks at its size. */
const LOOK_BYTES = 32 * 1024;

export class LogFile {
  readonly #fd: number;
  readonly #path: string;
  readonly #oldPath: string;
  /** Looked at before the first line. */
  #writtenBytes = LOOK_BYTES;

  /** `fd` is open for appending to the file at `path`. */
  constructor(fd: number, path: string, oldPath: string) {
    this.#fd = fd;
    this.#path = path;
    this.#oldPath = oldPath;
  }

  /** Whether a descriptor is that file, and not the terminal or the journal. */
  static isAt(fd: number, path: string): boolean {
    try {
      const ours = fstatSync(fd);
      const found = statSync(path);
      return ours.isFile() && ours.dev === found.dev && ours.ino === found.ino;
    } catch {
      // ENOENT, EBADF: it is not.
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
      // A log that cannot be looked at is written on.
    }
  }

  #rotate(): void {
    try {
      copyFileSync(this.#path, this.#oldPath);
    } catch {
      // No room for two: better no old lines than a full run directory.
      rmSync(this.#oldPath, { force: true });
    }
    ftruncateSync(this.#fd, 0);
  }
}
