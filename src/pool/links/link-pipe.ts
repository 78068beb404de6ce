/**
 * The pipe of a link's replies, as the manager holds it: grown while large replies use it, shrunk when they do not.
 *
 * A worker may not exceed the system's limits (pipe(7): pipe-max-size, and pipe-user-pages-soft, which counts the pages
 * of all pipes of the manager's user). It notes in the journal what its replies need, and the manager looks there at
 * every tick. fcntl(2) waits for the pipe's lock, which a worker holds while it reads the image into the pipe, so it
 * never runs on the event loop.
 */
import type { Journal } from "../../journal/journal.ts";
import { BASE_PIPE_BYTES, MAX_PIPE_BYTES } from "../../journal/layout.ts";
import { acquire } from "../../sys/libc/descriptor-reserve.ts";
import { close, duplicate } from "../../sys/libc/files.ts";
import { growPipeOffLoop, pipe, shrinkPipeOffLoop } from "../../sys/libc/pipes.ts";

/** A pipe that no large reply has used for this long is shrunk. */
const IDLE_MS = 10_000;
/** Most that the pipes of this process have beyond their base. Those of other programs of the user count as well. */
const BUDGET_BYTES = 64 * 1024 * 1024;

let beyondBaseBytes = 0;
/** One after the other: if a call waits for a hung file system, it takes one thread of Node's pool, not all. */
let calls: Promise<void> = Promise.resolve();

export class LinkPipe {
  readonly #journal: Journal;
  #ends: readonly [number, number];
  /** As far as known; the worker may have grown it as well. */
  #sizeBytes = 0;
  /** This much was refused, so it is not asked for again. */
  #refusedBytes = Number.POSITIVE_INFINITY;
  #usedAtMs = 0;
  /** Workers of former versions do not note what they need. They rely on a pipe that stays as it is. */
  #mayShrink = false;
  #isChanging = false;
  #isOpen = true;

  /** Takes over the descriptors: the read end, and the write end. */
  constructor(ends: readonly [number, number], journal: Journal) {
    this.#ends = ends;
    this.#journal = journal;
  }

  get ends(): readonly [number, number] {
    return this.#ends;
  }

  /** Replaces it by an empty one. @throws SystemError, and the old one is kept: the link can be settled again */
  renew(): void {
    const fresh = acquire(pipe);
    for (const fd of this.#ends) close(fd);
    this.#ends = fresh;
    this.#note(0);
  }

  /** A worker gets the link next. */
  changeHands(): void {
    this.#journal.takePipeWish();
    this.#mayShrink = false;
  }

  /** Called at every tick while a worker has the link. */
  adapt(nowMs: number): void {
    const wishBytes = Math.min(this.#journal.takePipeWish(), MAX_PIPE_BYTES);
    if (wishBytes > 0) this.#mayShrink = true;
    if (wishBytes > BASE_PIPE_BYTES) this.#usedAtMs = nowMs;
    if (this.#isChanging) return;
    if (wishBytes > Math.max(this.#sizeBytes, BASE_PIPE_BYTES)) this.#grow(wishBytes);
    else if (this.#mayShrink && this.#sizeBytes > BASE_PIPE_BYTES && nowMs - this.#usedAtMs > IDLE_MS)
      this.#change((fd) => shrinkPipeOffLoop(fd, BASE_PIPE_BYTES));
  }

  close(): void {
    this.#isOpen = false;
    this.#note(0);
    for (const fd of this.#ends) close(fd);
  }

  #grow(wishBytes: number): void {
    // The kernel rounds up to a power of two.
    const moreBytes = 2 ** Math.ceil(Math.log2(wishBytes)) - Math.max(this.#sizeBytes, BASE_PIPE_BYTES);
    const isTooMuch = (): boolean => beyondBaseBytes + moreBytes > BUDGET_BYTES;
    if (wishBytes >= this.#refusedBytes || isTooMuch()) return;
    this.#change(async (fd) => {
      // Others may have grown meanwhile.
      if (isTooMuch()) return 0;
      const sizeBytes = await growPipeOffLoop(fd, wishBytes);
      if (sizeBytes < wishBytes) this.#refusedBytes = wishBytes;
      return sizeBytes;
    });
  }

  #change(change: (fd: number) => Promise<number>): void {
    const ends = this.#ends;
    let fd: number;
    try {
      // Another descriptor may have the number of a closed one by the time of the call.
      fd = duplicate(ends[1]);
    } catch {
      // No descriptor is free: large replies take more rounds meanwhile.
      return;
    }
    this.#isChanging = true;
    calls = calls.then(async () => {
      const sizeBytes = await change(fd);
      close(fd);
      this.#isChanging = false;
      if (this.#isOpen && ends === this.#ends && sizeBytes > 0) this.#note(sizeBytes);
    });
  }

  /** Called only while the journal is mapped. */
  #note(sizeBytes: number): void {
    const beyond = (bytes: number): number => Math.max(0, bytes - BASE_PIPE_BYTES);
    beyondBaseBytes += beyond(sizeBytes) - beyond(this.#sizeBytes);
    this.#sizeBytes = sizeBytes;
    this.#journal.pipeBytes = sizeBytes;
  }
}
