/**
 * Sources for tests: bytes that an offset decides, in memory or later, with failures on command.
 */
import { closeSync, openSync, writeFileSync } from "node:fs";
import { identifyImage } from "../../../src/source/file-identity.ts";
import { FileSource } from "../../../src/source/file-source.ts";
import { type FileExtent, type Source, SourceError } from "../../../src/source/source.ts";

let pattern = Buffer.alloc(0);

/** What lies at `offsetBytes` of every test image: no two neighbouring kilobytes are alike. Do not write into it. */
export function patternAt(offsetBytes: number, lengthBytes: number): Buffer {
  const endBytes = offsetBytes + lengthBytes;
  if (endBytes > pattern.length) {
    pattern = Buffer.allocUnsafe(2 ** Math.ceil(Math.log2(endBytes)));
    for (let at = 0; at < pattern.length; at += 1)
      pattern[at] = (at * 31 + (at >> 8) * 7 + (at >> 16) * 13 + 1) & 0xff;
  }
  return pattern.subarray(offsetBytes, endBytes);
}

/** A source in memory that answers at once. */
export class PatternSource implements Source {
  readonly sizeBytes: number;
  readonly asynchronous = false;
  /** Thrown by the next reads; undefined: they work. */
  readFailure: Error | undefined;
  /** Thrown by `verify`. */
  verifyFailure: Error | undefined;
  reads = 0;
  verifications = 0;
  closed = 0;
  readonly #bytes: Buffer;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#bytes = patternAt(0, sizeBytes);
  }

  read(target: Uint8Array, offsetBytes: number): void {
    this.reads += 1;
    if (this.readFailure !== undefined) throw this.readFailure;
    target.set(this.#bytes.subarray(offsetBytes, offsetBytes + target.length));
  }

  verify(): void {
    this.verifications += 1;
    if (this.verifyFailure !== undefined) throw this.verifyFailure;
  }

  extent(): FileExtent | undefined {
    return undefined;
  }

  close(): void {
    this.closed += 1;
  }
}

/** A read that waits for the test to decide. */
export interface PendingRead {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Fills the target and resolves. */
  fulfil(): void;
  fail(error?: Error): void;
}

/** A source that answers when the test says so, in the order the test likes. */
export class DeferredSource implements Source {
  readonly sizeBytes: number;
  readonly asynchronous = true;
  readonly pending: PendingRead[] = [];

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  get pendingBytes(): number {
    return this.pending.reduce((sum, read) => sum + read.lengthBytes, 0);
  }

  read(target: Uint8Array, offsetBytes: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void): void => {
        this.pending.splice(this.pending.indexOf(read), 1);
        act();
      };
      const read: PendingRead = {
        offsetBytes,
        lengthBytes: target.length,
        fulfil: () =>
          settle(() => {
            target.set(patternAt(offsetBytes, target.length));
            resolve();
          }),
        fail: (error = new SourceError("cannot read: the test says so")) => settle(() => reject(error)),
      };
      this.pending.push(read);
    });
  }

  verify(): void {}

  extent(): FileExtent | undefined {
    return undefined;
  }

  close(): void {}
}

/** A file with the pattern in it, opened as an image is. */
export function openPatternFile(path: string, sizeBytes: number): FileSource {
  writeFileSync(path, patternAt(0, sizeBytes));
  return openFileSource(path);
}

/** Sends its pages by reference although no lease protects them, and checks them all the same. */
class SharingFileSource extends FileSource {
  override get mayShare(): boolean {
    return true;
  }
}

/** The same, with a way out without copies. */
export function openSharedFile(path: string, sizeBytes: number): FileSource {
  writeFileSync(path, patternAt(0, sizeBytes));
  return openFileSource(path, SharingFileSource);
}

/** An extent of a file that never changes. */
export const sharedExtent = (fd: number, offsetBytes: number): FileExtent => ({
  fd,
  offsetBytes,
  owner: { mayShare: true, read: () => {}, verify: () => {} },
});

/** Any file as a source. */
export function openFileSource(path: string, Kind: typeof FileSource = FileSource): FileSource {
  const fd = openSync(path, "r");
  try {
    return new Kind(fd, identifyImage(fd, path), path);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
