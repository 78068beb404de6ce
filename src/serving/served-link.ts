/**
 * One link of a process: added with its socket, served by the read-serving loop, then ended or released.
 *
 * Workers and the NBD server make one per socket and drive it through the pump. The link does not know whether its
 * socket is a device's first, taken over from another worker, or a fresh one after a failure: what is left to do is in
 * its journal.
 */
import type { Journal } from "../journal/journal.ts";
import { duplicate } from "../sys/libc/files.ts";
import type { LinkCounters } from "../worker-protocol/link-end.ts";
import { LinkContext, type LinkEvents, type LinkOptions } from "./link-context.ts";
import type { Pollable, Pump } from "./pump.ts";
import { resumeReply } from "./resumed-reply.ts";
import { ServeLoop } from "./serve-loop.ts";

export class ServedLink implements Pollable {
  readonly #context: LinkContext;
  readonly #loop: ServeLoop;

  /** Takes over the non-blocking socket; the source stays the caller's. @throws SystemError */
  constructor(fd: number, pump: Pump, options: LinkOptions, events: LinkEvents) {
    this.#context = new LinkContext(fd, pump, options, events, this);
    this.#loop = new ServeLoop(this.#context);
  }

  get counters(): LinkCounters {
    return this.#context.counters;
  }

  /** Begins with the requests that came together with the end of a handshake: less than an inbox of them. */
  start(received: Uint8Array): void {
    this.#loop.start(received);
  }

  /** Goes on where another worker stopped or was killed. The journal has been settled (recovery.ts). */
  resume(): void {
    const journal = this.#context.journal as Journal;
    journal.busy = true;
    resumeReply(this.#context, () => this.#loop.answerReceived());
    this.#loop.answerReceived();
    if (this.#context.isOpen) journal.busy = false;
  }

  onEvents(events: number): void {
    const { journal } = this.#context;
    // Only the completion of asynchronous reads runs code of this link outside of this.
    if (journal !== undefined) journal.busy = true;
    this.#loop.turn(events);
    if (journal !== undefined && this.#context.isOpen) journal.busy = false;
  }

  /** Whether the peer has yet to read pages of the file that were sent by reference. */
  get sharesPages(): boolean {
    return this.#context.isOpen && this.#context.replies.sharesPages;
  }

  /** Answers nothing new until `goOn`, so that the peer can read what was sent. A reply that has begun is finished. */
  holdBack(): void {
    this.#context.isHeldBack = true;
  }

  goOn(): void {
    this.#context.isHeldBack = false;
    if (this.#context.isOpen) this.onEvents(0);
  }

  /** A duplicate of the socket, to see after the link's end how much the peer has not read. @throws SystemError */
  keepSocket(): number {
    return duplicate(this.#context.fd);
  }

  /** Stops serving without ending the connection: another worker goes on with what the journal says is left. */
  release(): void {
    if (this.#context.isOpen) this.#context.release();
  }

  /** Stops serving and ends the connection; unanswered requests stay unanswered. */
  close(): void {
    this.#context.end({ kind: "closed" });
  }
}
