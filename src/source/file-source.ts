/**
 * A local image as a source: a regular file or a block device, read through one descriptor.
 *
 * The descriptor was opened once, by whoever attached the image, and arrives here with the identity that was
 * pinned then; the path is never opened again, so a file put in its place cannot slip in. A file that was
 * truncated or changed underneath answers with errors until it is as it was, never with zeros.
 */

import { ERRNO, errnoName } from "../sys/errno.ts";
import { close, pread } from "../sys/libc.ts";
import { describeChange, type FileIdentity, FileStat } from "./file-identity.ts";
import { type FileExtent, type Source, SourceError } from "./source.ts";

export class FileSource implements Source {
  readonly sizeBytes: number;
  readonly asynchronous = false;
  readonly #fd: number;
  readonly #identity: FileIdentity;
  readonly #path: string;
  readonly #stat = new FileStat();
  readonly #mtimeSeconds: number;
  readonly #mtimeNanoseconds: number;

  /** Takes the descriptor over. `path` is only for messages. */
  constructor(fd: number, identity: FileIdentity, path: string) {
    this.#fd = fd;
    this.#identity = identity;
    this.#path = path;
    this.sizeBytes = identity.sizeBytes;
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
        throw new SourceError(`Cannot read ${this.#path} at ${offsetBytes + filled}: ${errnoName(-got)}`);
      if (got === 0) {
        this.verify();
        throw new SourceError(`Cannot read ${this.#path} at ${offsetBytes + filled}: the file ends there`);
      }
      filled += got;
    }
  }

  verify(): void {
    if (this.#identity.kind === "block-device") return;
    const stat = this.#stat;
    try {
      stat.refresh(this.#fd);
    } catch (error) {
      // A file system that has gone away: of no concern to who reads other images.
      throw new SourceError(
        `Cannot look at ${this.#path}: ${error instanceof Error ? error.message : error}`,
      );
    }
    const same =
      stat.sizeBytes === this.#identity.sizeBytes &&
      stat.mtimeNanoseconds === this.#mtimeNanoseconds &&
      stat.mtimeSeconds === this.#mtimeSeconds;
    if (same) return;
    const change = describeChange(this.#identity, stat.identity(this.#fd));
    throw new SourceError(`Cannot serve ${this.#path}: ${change ?? "it was modified"}`);
  }

  extent(offsetBytes: number): FileExtent {
    return { fd: this.#fd, offsetBytes };
  }

  close(): void {
    close(this.#fd);
  }
}
