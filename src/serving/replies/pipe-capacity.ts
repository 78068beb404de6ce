/**
 * How much a link's pipe takes at once, as its worker knows, and who is asked for more.
 *
 * Used by JournaledReplies. The worker asks for what the system allows it, once. The manager gives what is beyond that
 * (pool/links/link-pipe.ts); both meet in the journal.
 */
import type { Journal } from "../../journal/journal.ts";
import { BASE_PIPE_BYTES, MAX_PIPE_BYTES } from "../../journal/layout.ts";
import { growPipe } from "../../sys/libc/pipes.ts";

const PAGE_BYTES = 4096;

export class PipeCapacity {
  readonly #writeFd: number;
  readonly #journal: Journal;
  /** The manager may have changed it just now. That costs a round, or a vain call. */
  #bytes: number;
  /** As the manager has last set it. */
  #givenBytes: number;
  /** More was refused once, and is not asked for again. */
  #allowedBytes = MAX_PIPE_BYTES;

  /** Grows the pipe to its base. */
  constructor(writeFd: number, journal: Journal) {
    this.#writeFd = writeFd;
    this.#journal = journal;
    this.#bytes = growPipe(writeFd, BASE_PIPE_BYTES);
    this.#givenBytes = journal.pipeBytes;
    // Tells the manager that this worker notes what it needs.
    journal.pipeWishBytes = BASE_PIPE_BYTES;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** How many pages, whole or not, the empty pipe takes. */
  get pages(): number {
    return Math.floor(this.#bytes / PAGE_BYTES);
  }

  /** A reply of this size is about to go through. */
  need(totalBytes: number): void {
    // The header lies in a page of its own.
    const neededBytes = Math.min(totalBytes + PAGE_BYTES, MAX_PIPE_BYTES);
    if (neededBytes <= BASE_PIPE_BYTES) return;
    this.#journal.pipeWishBytes = neededBytes;
    const givenBytes = this.#journal.pipeBytes;
    if (givenBytes !== this.#givenBytes && givenBytes > 0) this.#bytes = givenBytes;
    this.#givenBytes = givenBytes;
    const askedBytes = Math.min(neededBytes, this.#allowedBytes);
    if (askedBytes <= this.#bytes) return;
    this.#bytes = growPipe(this.#writeFd, askedBytes);
    if (this.#bytes < askedBytes) this.#allowedBytes = this.#bytes;
  }
}
