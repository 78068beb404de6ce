/**
 * What a dead worker left on a link, settled: afterwards the journal says exactly what is left to do.
 *
 * Run by the manager while no worker has the link. It never guesses: what cannot be told for sure makes the link
 * unsafe, and it is given up for a fresh one. It may be killed at any instant, too: each step leaves a journal that
 * says the same, or more, to whoever comes next.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Accountant, type Sample } from "./account.ts";
import type { Journal } from "./journal.ts";

/** What can be seen of the link besides its journal. */
export interface LinkWitness {
  /** Bytes that the link's pipe holds. */
  readonly pipeBytes: () => number;
  /** Whether replies leave by send(2) on this link, so that one can be in doubt. */
  readonly counted: boolean;
  /** The kernel's books; undefined while they cannot be trusted. */
  readonly sample: () => Sample | undefined;
}

export type Settlement =
  | {
      readonly safe: true;
      /** Requests the next worker finds unanswered. */
      readonly unanswered: number;
      /** Replies that were in doubt and had been sent. */
      readonly sent: number;
      /** What was in the pipe is void: the next worker needs an empty one. */
      readonly freshPipe: boolean;
    }
  | { readonly safe: false; readonly why: string };

const SAMPLE_MS = 1;
/**
 * So many looks at least, however late they come: a manager that did not run while time passed has seen nothing yet.
 * Enough for what is taken for a standstill (account.ts).
 */
const MIN_SAMPLES = 20;

/** Settles a journal within `patienceMs`, and at least MIN_SAMPLES looks at the kernel's books. */
export async function settle(
  journal: Journal,
  witness: LinkWitness,
  patienceMs: number,
): Promise<Settlement> {
  const { batch } = journal;
  const unknown = journal.slotsIn("unknown").length;
  if (unknown > 0) return unsafe(`the journal holds ${unknown} slots that are no requests`);
  const sending = journal.slotsIn("sending");
  if (batch.phase === "idle") return settleSend(journal, sending, witness, patienceMs);
  if (batch.committedBytes < batch.totalBytes && batch.committedBytes > 0 && sending.length !== 1)
    return unsafe(`a reply was cut inside a batch of ${sending.length}`);
  if (batch.phase === "filled") {
    const left = witness.pipeBytes();
    if (left > batch.committedBytes) return unsafe(`the pipe holds ${left} bytes of ${batch.committedBytes}`);
    return { safe: true, unanswered: journal.slotsIn("received").length, sent: 0, freshPipe: false };
  }
  if (batch.committedBytes === 0) {
    for (const slot of sending) journal.unsent(slot);
    journal.idle();
  }
  return { safe: true, unanswered: journal.slotsIn("received").length, sent: 0, freshPipe: true };
}

/** Replies that one send(2) was to carry: all have left, or none. */
async function settleSend(
  journal: Journal,
  sending: readonly number[],
  witness: LinkWitness,
  patienceMs: number,
): Promise<Settlement> {
  const pending = journal.slotsIn("received").length;
  const settled = { safe: true, unanswered: pending, sent: 0, freshPipe: true } as const;
  if (sending.length + pending === 0) return settled;
  if (!witness.counted) {
    // It died between marking these and filling the pipe: nothing leaves such a link in another way.
    for (const slot of sending) journal.unsent(slot);
    return { ...settled, unanswered: pending + sending.length };
  }
  const accountant = new Accountant({ pending, sending: sending.length });
  const deadline = performance.now() + patienceMs;
  for (let looks = 0; looks < MIN_SAMPLES || performance.now() < deadline; looks += 1) {
    const sample = witness.sample();
    if (sample === undefined)
      return sending.length === 0 ? settled : unsafe("nothing keeps count that could settle its last send");
    // Nothing in doubt, and the kernel waits for at least what we have to answer.
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
