/**
 * The links of one worker: giving them to it, taking them away, and what it reports about them.
 */
import { describeEnd } from "../worker-protocol/link-end.ts";
import type { FromWorker, ToWorker } from "../worker-protocol/messages.ts";
import type { HeldLink } from "./links/held-link.ts";
import { PendingAnswers } from "./pending-answers.ts";
import type { WorkerProcess } from "./worker-process.ts";

/** Messages about one of the worker's links. `held` is received before there is a WorkerProcess; see reattach.ts. */
export type LinkMessage = Exclude<Extract<FromWorker, { readonly link: number }>, { type: "held" }>;

export class WorkerLinks {
  readonly #worker: WorkerProcess;
  readonly #links = new Map<number, HeldLink>();
  /** Answers to `serve` and `release`. */
  readonly #answers: PendingAnswers;
  /** By link: takes a message back that waits for room in the worker's channel. */
  readonly #unsent = new Map<number, AbortController>();
  /** Requests that were answered on links that have ended. */
  #served = 0;
  /** Links that the worker serves and that this manager leaves to it. */
  #left = 0;

  /**
   * Links that were offered to the worker are offered to others if it is silent for `deadlineMs`. Whether it hangs is
   * for the hang watch alone to decide.
   */
  constructor(worker: WorkerProcess, deadlineMs: number) {
    this.#worker = worker;
    this.#answers = new PendingAnswers(deadlineMs, () => {
      worker.noteOverdue();
      for (const link of this.all) this.#withdraw(link);
    });
  }

  get size(): number {
    return this.#links.size;
  }

  get all(): HeldLink[] {
    return [...this.#links.values()];
  }

  get(link: number): HeldLink | undefined {
    return this.#links.get(link);
  }

  /** Whether any request was answered on them. */
  get haveServed(): boolean {
    return this.#served > 0 || this.all.some((link) => link.counters.requests > 0);
  }

  /** Closed links do not count: a hanging worker still has them, because it never sees the request to close them. */
  get areNeeded(): boolean {
    return this.#left > 0 || this.all.some((link) => link.isServable);
  }

  /** Whether an answer about this link is pending: nothing else can be asked about it meanwhile. */
  isAskedAbout(link: HeldLink): boolean {
    return this.#answers.has(link.number);
  }

  /**
   * Gives the worker a link. False when it does not serve the link in the end: another worker may. The offer is
   * withdrawn when the worker stays silent before it has taken it. When the signal aborts the link is given up.
   * @throws SystemError when the message cannot be sent for lack of resources
   */
  async serve(link: HeldLink, signal?: AbortSignal): Promise<boolean> {
    if (!link.isServable) return false;
    this.#links.set(link.number, link);
    link.offerTo(this.#worker);
    link.lease.prepareFor(this.#worker.pid, this.#worker.takesLeases);
    const offer = this.#worker.takesOffers ? link.offer.make() : undefined;
    const giveUp = (): void => {
      if (!this.#withdraw(link)) this.close(link);
    };
    signal?.addEventListener("abort", giveUp, { once: true });
    try {
      const answer = await this.#ask(link, { type: "serve", ...link.describe(), offer }, link.descriptors);
      // A worker may die right after its answer. If both are handled in one turn, the link was taken from it already.
      const serves = answer && this.#worker.isAlive;
      if (serves) link.assign(this.#worker);
      else this.drop(link);
      return serves;
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
  }

  /** Takes the offer of a link back, if the worker was asked to serve it and has not begun to. */
  #withdraw(link: HeldLink): boolean {
    if (!this.#answers.has(link.number) || !this.#worker.takesOffers || !link.offer.withdraw()) return false;
    this.#unsent.get(link.number)?.abort();
    this.#answers.settle(link.number, false);
    return true;
  }

  /** Takes a link away for a handover. False when the worker died or the link ended meanwhile. */
  async release(link: HeldLink): Promise<boolean> {
    const released = await this.#ask(link, { type: "release", link: link.number }, []);
    this.drop(link);
    return released;
  }

  /** The worker serves this link already. False when it has died meanwhile. */
  adopt(link: HeldLink): boolean {
    link.assign(this.#worker);
    if (this.#worker.isAlive) this.#links.set(link.number, link);
    else link.unassign(this.#worker);
    return this.#worker.isAlive;
  }

  /** The worker goes on serving a link that has no device here, and so it is not idle. */
  leaveOne(): void {
    this.#left += 1;
  }

  /** The worker no longer has the link. */
  drop(link: HeldLink): void {
    this.#links.delete(link.number);
    link.unassign(this.#worker);
  }

  /** Has the worker close a link for good. */
  close(link: HeldLink): void {
    if (this.#links.has(link.number)) this.#worker.post({ type: "close", link: link.number });
  }

  /** Retries leases for links that have none: a writer may have closed the file. Called at every tick. */
  renewLeases(): void {
    if (!this.#worker.takesLeases || !this.#worker.isReady) return;
    for (const link of this.all) {
      if (!link.isServable || link.worker !== this.#worker || this.isAskedAbout(link)) continue;
      const fd = link.lease.renewFor(this.#worker.pid);
      if (fd !== undefined) this.#worker.post({ type: "lease", link: link.number }, [fd]);
    }
  }

  /** Gives the links' pipes the size that their replies need. Called at every tick. */
  adaptPipes(nowMs: number): void {
    for (const link of this.all) if (link.isServable) link.pipe.adapt(nowMs);
  }

  handle(message: LinkMessage): void {
    this.#answers.noteProgress(message.link);
    const link = this.#links.get(message.link);
    switch (message.type) {
      case "serving":
      case "released":
        return this.#answers.settle(message.link, true);
      case "refused":
        link?.refuse(message.message);
        return this.#answers.settle(message.link, false);
      case "lease-over":
        return link?.lease.drop();
      case "exactness":
        if (link?.lease.note(message) === true) link.observer.repinned?.();
        return link?.observer.exactness?.();
      case "first-request":
        return link?.observer.firstRequest();
      case "read-error":
        return link?.observer.readErrors(message.message, message.count);
      case "ended":
        if (link === undefined) return;
        this.#links.delete(message.link);
        this.#served += message.counters.requests;
        link.end();
        this.#answers.settle(message.link, false);
        link.observer.ended(
          `worker ${this.#worker.pid} ended the link: ${describeEnd(message.end)}`,
          message.end,
        );
    }
  }

  /** The worker is dead: no answer will come. Its links stay here until the pool has dealt with them. */
  end(): void {
    this.#answers.end();
  }

  async #ask(link: HeldLink, message: ToWorker, fds: readonly number[]): Promise<boolean> {
    if (!this.#worker.isAlive) return false;
    const answered = this.#answers.expect(link.number);
    const unsent = new AbortController();
    this.#unsent.set(link.number, unsent);
    try {
      return (await this.#worker.send(message, fds, unsent.signal)) && (await answered);
    } finally {
      this.#unsent.delete(link.number);
      this.#answers.forget(link.number);
    }
  }
}
