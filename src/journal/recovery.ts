/**
 * Settles the journal of a link whose worker is dead: afterwards it says exactly what is left to do.
 *
 * Run by the manager while no worker has the link. It never guesses: if anything cannot be decided for certain, the
 * link is unsafe and is replaced by a fresh one. The manager may be killed at any instant, too: each step leaves a
 * journal that says the same as before, or more.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Accountant, type Sample } from "./account.ts";
import type { Journal } from "./journal.ts";

/** What is known about the link besides its journal. */
export interface LinkWitness {
  /** Bytes that the link's pipe holds. */
  readonly pipeBytes: () => number;
  /** Whether replies of this link leave by send(2), so that they can be in doubt. */
  readonly counted: boolean;
  /** The kernel's counts; undefined while they cannot be trusted. */
  readonly sample: () => Sample | undefined;
}

export type Settlement =
  | {
      readonly safe: true;
      /** Requests that the next worker finds unanswered. */
      readonly unanswered: number;
      /** Replies that were in doubt and had been sent. */
      readonly sent: number;
      /** The pipe's contents are void: the next worker needs an empty pipe. */
      readonly freshPipe: boolean;
    }
  | { readonly safe: false; readonly why: string };

const SAMPLE_MS = 1;
/**
 * Least number of samples, even after the time is up: a manager that did not run meanwhile has seen nothing. Enough to
 * conclude that replies were not sent (account.ts).
 */
const MIN_SAMPLES = 20;

/** Settles a journal within `patienceMs`, or MIN_SAMPLES samples of the kernel's counts if they take longer. */
export async function settle(
  journal: Journal,
  witness: LinkWitness,
  patienceMs: number,
): Promise<Settlement> {
  const { batch } = journal;
  const unknown = journal.entriesIn("unknown").length;
  if (unknown > 0) return unsafe(`the journal holds ${unknown} entries that are no requests`);
  const sending = journal.entriesIn("sending");
  if (batch.phase === "idle") return settleSend(journal, sending, witness, patienceMs);
  if (batch.committedBytes < batch.totalBytes && batch.committedBytes > 0 && sending.length !== 1)
    return unsafe(`a reply was cut inside a batch of ${sending.length}`);
  if (batch.phase === "filled") {
    const left = witness.pipeBytes();
    if (left > batch.committedBytes) return unsafe(`the pipe holds ${left} bytes of ${batch.committedBytes}`);
    return { safe: true, unanswered: journal.entriesIn("received").length, sent: 0, freshPipe: false };
  }
  if (batch.committedBytes === 0) {
    for (const slot of sending) journal.unsent(slot);
    journal.idle();
  }
  return { safe: true, unanswered: journal.entriesIn("received").length, sent: 0, freshPipe: true };
}

/** Settles replies of one send(2): all have left, or none. */
async function settleSend(
  journal: Journal,
  sending: readonly number[],
  witness: LinkWitness,
  patienceMs: number,
): Promise<Settlement> {
  const pending = journal.entriesIn("received").length;
  const settled = { safe: true, unanswered: pending, sent: 0, freshPipe: true } as const;
  if (sending.length + pending === 0) return settled;
  if (!witness.counted) {
    // The worker died after it had marked these and before it filled the pipe: this link sends only through the pipe.
    for (const slot of sending) journal.unsent(slot);
    return { ...settled, unanswered: pending + sending.length };
  }
  const accountant = new Accountant({ pending, sending: sending.length });
  const deadline = performance.now() + patienceMs;
  for (let looks = 0; looks < MIN_SAMPLES || performance.now() < deadline; looks += 1) {
    const sample = witness.sample();
    if (sample === undefined)
      return sending.length === 0 ? settled : unsafe("no count of reads in flight can settle its last send");
    // Nothing is in doubt, and the kernel waits for at least the unanswered requests.
    if (sending.length === 0 && sample.inFlight - sample.unread >= pending) return settled;
    const account = accountant.take(sample, performance.now());
    if (account === "sent") {
      for (const slot of sending) journal.answered(slot);
      return { ...settled, sent: sending.length };
    }
    if (account === "not-sent") {
      for (const slot of sending) journal.unsent(slot);
      return { ...settled, unanswered: pending + sending.length };
    }
    await sleep(SAMPLE_MS);
  }
  return unsafe(accountant.explain());
}

function unsafe(why: string): Settlement {
  return { safe: false, why };
}
