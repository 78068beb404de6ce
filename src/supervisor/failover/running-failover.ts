/**
 * One failover under way, or measured to its end: since when, why, and its one outcome.
 *
 * Keeps books, decides nothing: the supervisor's table says when it ends. `finish` gives an outcome exactly once.
 */
import { WITNESS, type Witness } from "../links/link-set.ts";
import type { FailoverCauseClass, FailoverLevel, FailoverOutcome } from "../managed-device.ts";
import type { StallMeter } from "./stall-meter.ts";

/** Node's timers end at 2^31-1 ms; a longer dead timeout is as good as this one. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** A link that died: with its worker, which is the only one to see its exit, or by itself. */
export const causeClassOf = (witness: Witness): FailoverCauseClass =>
  witness === WITNESS.exit ? "worker-exit" : "link";

export class RunningFailover {
  readonly #meter: StallMeter;
  readonly #at = new Date().toISOString();
  readonly #stop = new AbortController();
  readonly #deadline: NodeJS.Timeout;
  #cause: string;
  #causeClass: FailoverCauseClass;
  #witness: Witness;
  #level: FailoverLevel = "takeover";
  #stranded: number | undefined;
  #reported = false;

  /** `deadline` is called when reads have waited for as long as the kernel holds them, unless it ends before. */
  constructor(
    first: {
      readonly cause: string;
      readonly witness: Witness;
      readonly causeClass: FailoverCauseClass;
    },
    meter: StallMeter,
    deadline: { readonly afterMs: number; readonly call: () => void },
  ) {
    this.#cause = first.cause;
    this.#causeClass = first.causeClass;
    this.#witness = first.witness;
    this.#meter = meter;
    this.#deadline = setTimeout(deadline.call, Math.min(deadline.afterMs, MAX_TIMER_MS)).unref();
  }

  /** Aborts when nobody is to work on it any more. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  get isReported(): boolean {
    return this.#reported;
  }

  get elapsedMs(): number {
    return this.#meter.elapsedMs;
  }

  get level(): FailoverLevel {
    return this.#level;
  }

  /** The link itself is dead, or was given up: only a fresh one helps. Tells why, where a takeover was tried before. */
  escalate(why?: string): void {
    if (this.#level === "reconnect") return;
    this.#level = "reconnect";
    if (why !== undefined && !this.#reported) this.#cause = `${this.#cause}; ${why}`;
  }

  /** Reads that a takeover found unanswered. */
  found(unanswered: number): void {
    this.#stranded = (this.#stranded ?? 0) + unanswered;
  }

  /** The surest witness gives the cause its words. */
  explain(cause: string, witness: Witness): void {
    if (this.#reported || witness <= this.#witness) return;
    this.#cause = cause;
    this.#causeClass = causeClassOf(witness);
    this.#witness = witness;
  }

  stop(): void {
    clearTimeout(this.#deadline);
    this.#stop.abort();
  }

  /** Links are restored: waits until the stranded reads have gone out again; see StallMeter. */
  stoodStillMs(requeueMs: number): Promise<number> {
    clearTimeout(this.#deadline);
    return this.#meter.stoodStillMs(requeueMs, this.#stop.signal);
  }

  /** The outcome; undefined when it was given before. */
  finish(result: FailoverOutcome["result"], stallMs: number): FailoverOutcome | undefined {
    if (this.#reported) return undefined;
    this.#reported = true;
    clearTimeout(this.#deadline);
    return {
      result,
      level: this.#level,
      cause: this.#cause,
      causeClass: this.#causeClass,
      stallMs: Math.round(stallMs * 10) / 10,
      at: this.#at,
      strandedReads: (this.#level === "takeover" ? this.#stranded : undefined) ?? this.#meter.strandedReads,
    };
  }
}
