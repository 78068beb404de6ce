/**
 * One reply, or a batch of them, that goes through a link's pipe: where its bytes come from, and how the pipe is
 * filled with them.
 *
 * Made and driven by JournaledReplies, which decides when the pipe is filled, emptied and filled again.
 */
import { SIMPLE_REPLY_BYTES } from "../../nbd/wire.ts";
import { type ExtentOwner, type FileExtent, SourceError } from "../../source/source.ts";
import { ERRNO, errnoName } from "../../sys/errno.ts";
import { read, write } from "../../sys/libc/files.ts";
import { spliceFromFile } from "../../sys/libc/pipes.ts";
import { COPY_BYTES } from "./replies.ts";

const PAGE_BYTES = 4096;

/** The two ends of a link's pipe. */
export interface ReplyPipe {
  readonly readFd: number;
  readonly writeFd: number;
}

const SCRAP_BYTES = 64 * 1024;

/** Drops what is in a pipe. */
export function emptyPipe({ readFd }: ReplyPipe): void {
  const scrap = new Uint8Array(SCRAP_BYTES);
  while (read(readFd, scrap, scrap.length) > 0);
}

export interface PipeJob {
  /** The journal entries of the requests that it answers. */
  readonly entries: readonly number[];
  readonly totalBytes: number;
  /**
   * Puts bytes of the job from `fromBytes` on into the empty pipe, which has room for so many pages; returns how many,
   * or -errno. @throws SourceError
   */
  readonly fill: (fromBytes: number, pages: number) => number;
  /** The source of a file's data. It is verified after each fill, and after the job has waited. */
  readonly owner: ExtentOwner | undefined;
  /** Pages of the file have entered the pipe by reference, or may have. */
  isShared: boolean;
}

/** Replies in a buffer that is the job's alone. */
export function bytesJob(pipe: ReplyPipe, bytes: Uint8Array, entries: readonly number[]): PipeJob {
  const fill = (from: number): number => write(pipe.writeFd, bytes.subarray(from), bytes.length - from);
  return { entries, totalBytes: bytes.length, fill, owner: undefined, isShared: false };
}

/** One reply whose data is a range of a file. */
export function fileJob(
  pipe: ReplyPipe,
  header: Uint8Array,
  extent: FileExtent,
  lengthBytes: number,
  entry: number,
): PipeJob {
  const totalBytes = SIMPLE_REPLY_BYTES + lengthBytes;
  const fill = (from: number, pages: number): number => {
    let put = 0;
    let free = pages;
    if (from === 0) {
      put = write(pipe.writeFd, header, SIMPLE_REPLY_BYTES);
      if (put !== SIMPLE_REPLY_BYTES) return put < 0 ? put : -ERRNO.EIO;
      free -= 1;
    }
    // A pipe that is full would only say so.
    while (from + put < totalBytes && free > 0) {
      const done = from + put - SIMPLE_REPLY_BYTES;
      const got = putFile(pipe, job, extent, done, lengthBytes - done);
      if (got === -ERRNO.EAGAIN) break;
      if (got === -ERRNO.EINTR) continue;
      if (got === 0) throw new SourceError("cannot finish a reply: the file ended inside it");
      if (got < 0)
        throw new SourceError(`cannot finish a reply: reading the file failed: ${errnoName(-got)}`);
      put += got;
      free -= pagesOf(extent.offsetBytes + done, got);
    }
    return put;
  };
  const job: PipeJob = { entries: [entry], totalBytes, fill, owner: extent.owner, isShared: false };
  return job;
}

/** How many pages a range of a file lies in; the pipe has each in a place of its own. */
const pagesOf = (atBytes: number, lengthBytes: number): number =>
  Math.ceil(((atBytes % PAGE_BYTES) + lengthBytes) / PAGE_BYTES);

/** What a former worker has put into the pipe completely: there is nothing to fill. */
export function leftoverJob(entries: readonly number[], totalBytes: number): PipeJob {
  return { entries, totalBytes, fill: () => -ERRNO.EIO, owner: undefined, isShared: true };
}

/**
 * Puts pages of a file into the pipe, by reference or copied. Returns how many bytes, or -errno. @throws SourceError
 */
function putFile(
  pipe: ReplyPipe,
  job: PipeJob,
  { fd, offsetBytes, owner }: FileExtent,
  doneBytes: number,
  lengthBytes: number,
): number {
  if (owner.mayShare) {
    job.isShared = true;
    return spliceFromFile(fd, offsetBytes + doneBytes, pipe.writeFd, lengthBytes);
  }
  const piece = new Uint8Array(Math.min(lengthBytes, COPY_BYTES));
  void owner.read(piece, offsetBytes + doneBytes);
  return write(pipe.writeFd, piece, piece.length);
}
