/**
 * One failover: from the death of a link or its worker until every link is up and served, with exactly one outcome.
 *
 * NetlinkDevice makes one when its state table says so, and gives it the parts of the device. Level 1, a link that has
 * lost its worker: another worker takes over the same socket, and the kernel notices nothing. Level 2, a dead link:
 * reconnect.ts. p-retry repeats the attempts, first quickly, then slowly for as long as the device exists.
 */
import pRetry from "p-retry";
import { withDeadline } from "../../sys/deadline.ts";
import type { LinkDeath } from "../links/link-death.ts";
import type { DeviceSettings, FailoverLevel, FailoverOutcome } from "../managed-device.ts";
import { DeviceEndedError, type FailoverParts, replaceDeadLinks } from "./reconnect.ts";
import { StallMeter } from "./stall-meter.ts";

/** Receives the events of a failover. */
export interface FailoverListener {
  /** Every link is up and served, and the kernel is known to use it. */
  linksRestored(): void;
  /** The quick attempts are used up, or a takeover is put off; slow attempts go on. */
  stalled(why: string): void;
  /** Reads have waited for as long as the kernel holds them. */
  deadlinePassed(): void;
  /** The kernel has disconnected the device. */
  deviceEnded(why: string): void;
  attemptFailed(why: string, attempt: number): void;
  /** A bug has ended the failover. */
  broken(why: string): void;
  /** Called once. */
  finished(outcome: FailoverOutcome): void;
}

/** Node's timers end at 2^31-1 ms; a longer dead timeout is as good as this one. */
const MAX_TIMER_MS = 2 ** 31 - 1;
/** Twice what the block layer's timer can be late by (blk_rq_timeout: it is rounded to about a second). */
const REQUEUE_GRACE_MS = 3000;

export class Failover {
  readonly #parts: FailoverParts;
  readonly #ioTimeoutMs: number;
  readonly #listener: FailoverListener;
  readonly #meter: StallMeter;
  readonly #at = new Date().toISOString();
  readonly #stop = new AbortController();
  readonly #deadline: NodeJS.Timeout;
  /** What it began with. */
  readonly #first: LinkDeath;
  /** The cause, by the most reliable sign so far. */
  #death: LinkDeath;
  /** Why a takeover became a reconnect. */
  #escalation: string | undefined;
  #level: FailoverLevel = "takeover";
  /** Reads that takeovers have found unanswered. */
  #unanswered: number | undefined;
  #isReported = false;

  constructor(
    death: LinkDeath,
    parts: FailoverParts,
    { ioTimeoutMs, deadTimeoutSeconds }: Pick<DeviceSettings, "ioTimeoutMs" | "deadTimeoutSeconds">,
    listener: FailoverListener,
  ) {
    this.#first = death;
    this.#death = death;
    this.#parts = parts;
    this.#ioTimeoutMs = ioTimeoutMs;
    this.#listener = listener;
    this.#meter = new StallMeter(() => parts.kernel.readsInFlight, death.silentMs);
    const afterMs = Math.min(deadTimeoutSeconds * 1000, MAX_TIMER_MS);
    this.#deadline = setTimeout(() => listener.deadlinePassed(), afterMs).unref();
  }

  /** Starts the failover, which runs until the links are restored, the device ends, or `stop`. */
  start(): void {
    this.#restoreLinks()
      .then(() => this.#listener.linksRestored())
      .catch((error: unknown) => {
        if (error instanceof DeviceEndedError) this.#listener.deviceEnded(error.message);
        else if (!this.#stop.signal.aborted)
          this.#listener.broken(`internal error (a bug in erofs-nbd) ended the failover: ${String(error)}`);
      });
  }

  /** Whether its outcome is known. */
  get isReported(): boolean {
    return this.#isReported;
  }

  get elapsedMs(): number {
    return this.#meter.elapsedMs;
  }

  /** The link itself is dead, or was given up: only a fresh one helps. */
  escalate(death: LinkDeath): void {
    // Reads of the dead link stay in the kernel's count until they are sent again.
    this.#parts.kernel.distrustCountFor(Number.POSITIVE_INFINITY);
    if (this.#level === "reconnect") return;
    this.#level = "reconnect";
    if (death !== this.#first && !this.#isReported) this.#escalation = death.cause;
  }

  /** Another sign of the death. The most reliable one becomes the cause in the outcome. */
  explain(death: LinkDeath): void {
    if (this.#isReported || death.witness <= this.#death.witness) return;
    this.#death = death;
    this.#escalation = undefined;
  }

  /** Every link is up: the outcome follows when the reads that were on dead links have been sent again. */
  async recovered(): Promise<void> {
    const { links, kernel } = this.#parts;
    links.forgetLinkDead();
    if (this.#level === "takeover") return this.close();
    kernel.distrustCountFor(this.#ioTimeoutMs + REQUEUE_GRACE_MS);
    clearTimeout(this.#deadline);
    this.#report("recovered", await this.#meter.stoodStillMs(this.#ioTimeoutMs, this.#stop.signal));
  }

  failed(): void {
    this.#report("failed", this.elapsedMs);
  }

  /** The links were restored. A new death, or the end of the device, ends the measurement early. */
  close(): void {
    if (this.#isReported) return;
    this.stop();
    this.#report("recovered", this.elapsedMs);
  }

  stop(): void {
    clearTimeout(this.#deadline);
    this.#stop.abort();
  }

  /** Mends links until each is up and served. @throws DeviceEndedError; or the signal's reason when it was aborted */
  async #restoreLinks(): Promise<void> {
    const { signal } = this.#stop;
    const { quick, slow } = this.#parts.timing;
    const onFailedAttempt = ({ error, attemptNumber }: { error: Error; attemptNumber: number }): void => {
      if (!signal.aborted) this.#listener.attemptFailed(error.message, attemptNumber);
    };
    try {
      await pRetry(() => this.#attempt(), { ...quick, signal, onFailedAttempt });
    } catch (error) {
      if (signal.aborted || error instanceof DeviceEndedError) throw error;
      this.#listener.stalled((error as Error).message);
      await pRetry(() => this.#attempt(), { ...slow, signal, onFailedAttempt });
    }
  }

  async #attempt(): Promise<void> {
    const { links, progress } = this.#parts;
    try {
      progress.step();
      while (links.orphaned.length + links.dead.length > 0) {
        for (const index of links.orphaned) await this.#takeOver(index);
        if (links.dead.length > 0) await replaceDeadLinks(this.#parts, this.#stop.signal);
      }
    } catch (error) {
      // p-retry gives up at once on a TypeError; a device is worth another attempt after any error.
      throw error instanceof TypeError ? new Error(error.message, { cause: error }) : error;
    }
  }

  /** Another worker goes on with the same socket. A link that cannot be taken over safely is dead afterwards. */
  async #takeOver(index: number): Promise<void> {
    const { links, progress, timing } = this.#parts;
    progress.step();
    const taken = await withDeadline(timing.workerDeadlineMs, this.#stop.signal, (patience) =>
      links.takeOver(index, patience, (why) => this.#listener.stalled(why)),
    );
    if (taken?.safe === true) this.#unanswered = (this.#unanswered ?? 0) + taken.unanswered;
  }

  #report(result: FailoverOutcome["result"], stallMs: number): void {
    if (this.#isReported) return;
    this.#isReported = true;
    clearTimeout(this.#deadline);
    const { cause, causeClass } = this.#death;
    this.#listener.finished({
      result,
      level: this.#level,
      cause: this.#escalation === undefined ? cause : `${cause}; ${this.#escalation}`,
      causeClass,
      stallMs: Math.round(stallMs * 10) / 10,
      at: this.#at,
      strandedReads: (this.#level === "takeover" ? this.#unanswered : undefined) ?? this.#meter.strandedReads,
    });
  }
}
